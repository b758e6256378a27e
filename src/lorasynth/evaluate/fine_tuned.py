"""The yardstick: a LoRA fine-tuned for each person the usual way. It costs most of an evaluation, so it can be kept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.layout import Layout
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.outputs import make_folder
from lorasynth.worlds.subjects import TUNED_FROM
from lorasynth.worlds.world import World
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.initialisation import random_init
from lorasynth.zoo.people import train_people

_BANK = 10


def fine_tuned_vectors(
    world: World,
    layout: Layout,
    persons: list[int],
    config: AdaptConfig,
    num_photos: int,
    *,
    seed: int = 0,
    cache: Path | None = None,
    report: Callable[[str], None] = print,
) -> Float[Tensor, "N P"]:
    """LoRAs of some people, each trained on ``num_photos`` of its person from a random initialisation.

    Args:
        world: whose base model and photos.
        layout: of the LoRAs.
        persons: whom.
        config: how.
        num_photos: photos of each.
        seed: of the initialisation.
        cache: a folder where each ten people's LoRAs are kept, and looked for before training. What is found there was made
            with the same base model, layout, people and settings.
        report: gets a line for each ten people.
    """
    init = random_init(layout, seed)
    weights = fingerprint(*world.base.denoiser.parameters())
    vectors = []
    for start in range(0, len(persons), _BANK):
        part = persons[start : start + _BANK]
        key = json.dumps([world.name, weights, layout.hash, part, asdict(config), num_photos, seed], sort_keys=True)
        file = cache / f"fine-tuned-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors" if cache else None
        if file is not None and file.exists():
            vectors.append(read_tensors(file)[0]["vectors"])
            continue
        report(f"fine-tuning people {start + 1} to {start + len(part)} of {len(persons)} on {num_photos} photos each")
        vectors.append(
            train_people(world.base, layout, init, world.photos(part, num_photos, TUNED_FROM), config, bank_size=_BANK)
        )
        if file is not None:
            make_folder(file.parent)
            write_tensors(file, {"vectors": vectors[-1]})
    return torch.cat(vectors)
