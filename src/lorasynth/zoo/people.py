"""Fine-tuned LoRAs of some subjects, each for as many steps as all others or until its held-out photos gain no more."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.lora.layout import Layout
from lorasynth.zoo.adapt import AdaptConfig, adapt
from lorasynth.zoo.early_stopping import Stopping, finetune_with_early_stopping, held_out_loss


def train_people(
    base: Base,
    layout: Layout,
    init: Float[Tensor, " P"] | Float[Tensor, "N P"],
    photos: Photos,
    config: AdaptConfig,
    *,
    bank_size: int = 16,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs, ``bank_size`` at once, from a shared initialisation or from one each.

    Args:
        base: frozen.
        layout: of the LoRAs.
        init: where they begin.
        photos: of N subjects.
        config: how they are trained.
        bank_size: subjects trained at once.
        on_step: called after each step of a bank.
    """
    trained, starts = [], init.expand(len(photos), -1)
    step = (lambda _, __: on_step()) if on_step else None
    for rows in torch.arange(len(photos)).split(bank_size):
        trained.append(adapt(base, layout, starts[rows], photos.subjects(rows), config, on_step=step))
    return torch.cat(trained)


def train_until_done(
    base: Base,
    layout: Layout,
    starts: Float[Tensor, "N P"],
    photos: Photos,
    held_out: Photos,
    config: AdaptConfig,
    stopping: Stopping,
    *,
    places: int,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs, ``places`` at once, each until the base's loss on held-out photos of its subject gains no more."""
    score = held_out_loss(base, layout, held_out, seed=config.seed)
    return finetune_with_early_stopping(base, layout, starts, photos, config, stopping, score, slots=places).vectors
