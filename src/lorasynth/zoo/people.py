"""Fine-tuned LoRAs of a list of people, each for as many steps as all others or until its held-out photos gain no more."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.worlds.world import World
from lorasynth.zoo.adapt import AdaptConfig, adapt
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.relay import Stopping, held_out_loss, relay

_HELD_OUT_PHOTOS = 8


def train_people(
    world: World,
    layout: Layout,
    init: Float[Tensor, " P"] | Float[Tensor, "N P"],
    persons: list[int],
    num_photos: int,
    config: AdaptConfig,
    *,
    first_photo: int = 0,
    bank_size: int = 16,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs of some people, ``bank_size`` at once, from a shared initialisation or from one each."""
    trained, starts = [], init.expand(len(persons), -1)
    for i in range(0, len(persons), bank_size):
        part = persons[i : i + bank_size]
        bank = AdapterBank(world.pipe.unet, layout, len(part), starts[i : i + bank_size], lora_A=config.lora_A)
        photos = world.photos(part, num_photos, first_photo)
        step = (lambda _, __: on_step()) if on_step else None
        trained.append(adapt(world.pipe.unet, world.pipe.scheduler, bank, photos, config, on_step=step))
    return torch.cat(trained)


def train_people_until(
    world: World,
    layout: Layout,
    starts: Float[Tensor, "N P"],
    persons: list[int],
    config: ZooConfig,
    stopping: Stopping,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs of some people, each until the loss on photos behind those trained on gains no more."""
    unet, scheduler = world.pipe.unet, world.pipe.scheduler
    photos = world.photos(persons, config.photos, config.first_photo)
    held_out = world.photos(persons, _HELD_OUT_PHOTOS, config.first_photo + config.photos)
    score = held_out_loss(unet, scheduler, layout, held_out, seed=config.seed)
    return relay(
        unet, scheduler, layout, starts, photos, config.adapt, stopping, score, places=config.places
    ).vectors  # fmt: skip
