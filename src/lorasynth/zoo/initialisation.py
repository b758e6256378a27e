"""Where a zoo's LoRAs begin: at random, or at what a pilot of other people has learned for all of them."""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.errors import ZooError
from lorasynth.lora.layout import Layout
from lorasynth.zoo.adapt import adapt
from lorasynth.zoo.config import ZooConfig


def random_init(layout: Layout, seed: int) -> Float[Tensor, " P"]:
    """lora_A normal with variance 1 / in_features, lora_B zero: an update of zero."""
    generator = torch.Generator("cpu").manual_seed(seed)
    init = torch.zeros(layout.num_parameters, device="cpu")
    for m in layout.modules:
        place, _ = layout.slices[m.name]
        init[place] = torch.randn(m.rank * m.in_features, generator=generator, device="cpu") / m.in_features**0.5
    return init.to(torch.get_default_device())


def learn_init(
    base: Base,
    layout: Layout,
    photos_of: Callable[[int], Photos],
    config: ZooConfig,
    *,
    report: Callable[[str], None] = print,
) -> Float[Tensor, " P"]:
    """The zoo's shared initialisation: one lora_A learned for everybody, and the mean lora_B.

    A pilot bank trains many people with *one* lora_A between them, which so comes to span what people differ in. Every LoRA of
    the zoo then starts from it and from the pilot's mean, and trains lora_B only: all LoRAs share one row space, the gauge is
    fixed from the start, and canonical vectors are linear in the update.

    Several rounds with fresh people, each from the last one's lora_A and mean lora_B. The first begins at `random_init`.

    Args:
        base: frozen.
        layout: of the LoRAs.
        photos_of: a round's number -> photos of its people, who are in no zoo.
        config: of the zoo; ``pilot`` says how they are trained, ``pilot_in_banks`` how many in one pass.
        report: gets a line for each round.

    Raises:
        ZooError: the pilot's training diverged.
    """
    init, at_once = random_init(layout, config.seed), config.bank if config.pilot_in_banks else None
    for number in range(config.pilot_rounds):
        photos = photos_of(number)
        losses: list[float] = []

        def keep(_: int, loss: float, losses: list[float] = losses) -> None:
            losses.append(loss)

        settings = replace(config.pilot, seed=config.seed + 1 + number)
        trained = adapt(base, layout, init, photos, settings, at_once=at_once, on_step=keep)
        init = trained.mean(0)
        if not init.isfinite().all():
            raise ZooError(
                f"expected a pilot that learns, got one that diverged at learning rate {settings.learning_rate:g}; give a lower "
                "--learning-rate, or find one with `zoo pilot`"
            )
        report(f"pilot round {number + 1}: loss {fmean(losses[:8]):.4f} -> {fmean(losses[-8:]):.4f}")
    return init
