"""The yardstick: a LoRA fine-tuned for each person the usual way. It costs most of an evaluation: it can be kept and shared."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.layout import Layout
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.outputs import make_folder
from lorasynth.subjects import Subjects
from lorasynth.workers.leases import Leases
from lorasynth.zoo.adapt import AdaptConfig, train_people
from lorasynth.zoo.initialisation import random_init

_BANK = 10
ONE_PHOTO = 1


def fine_tuned_vectors(
    subjects: Subjects,
    layout: Layout,
    people: list[int],
    config: AdaptConfig,
    num_photos: int,
    *,
    seed: int = 0,
    cache: Path | None = None,
    report: Callable[[str], None] = print,
) -> Float[Tensor, "N P"]:
    """LoRAs of some people, each trained on ``num_photos`` of its person from a random initialisation.

    Args:
        subjects: whose base model and photos.
        layout: of the LoRAs.
        people: whom.
        config: how.
        num_photos: photos of each, or `ONE_PHOTO` for the very photo that a synthesizer is given.
        seed: of the initialisation.
        cache: a folder where each ten people's LoRAs are kept, and looked for before training. What is found there was made
            with the same base model, layout, people, photos and settings. Processes that do the same share the work there.
        report: gets a line for each ten people.
    """
    init = random_init(layout, seed)

    def train(part: list[int]) -> Float[Tensor, "n P"]:
        on = "the photo that is given" if num_photos == ONE_PHOTO else f"{num_photos} photos each"
        first = people.index(part[0]) + 1
        report(f"fine-tuning people {first} to {first + len(part) - 1} of {len(people)} on {on}")
        photos = subjects.given_photos(part) if num_photos == ONE_PHOTO else subjects.fitted(part, num_photos)
        return train_people(subjects.base, layout, init, photos, config, bank_size=_BANK)

    parts = [people[start : start + _BANK] for start in range(0, len(people), _BANK)]
    if cache is None:
        return torch.cat([train(part) for part in parts])
    weights = fingerprint(*subjects.base.denoiser.parameters())
    kept = {
        _file_name([subjects.content, weights, layout.hash, part, asdict(config), num_photos, seed]): part
        for part in parts
    }

    def work(name: str) -> None:
        if not (cache / name).exists():
            write_tensors(cache / name, {"vectors": train(kept[name])})

    make_folder(cache)
    leases = Leases(cache)
    leases.require_locks_that_reach()
    leases.share_out(lambda: (name for name in kept if not (cache / name).exists()), work)
    with suppress(OSError):  # others are at work on other photos
        leases.folder.rmdir()
    return torch.cat([read_tensors(cache / name)[0]["vectors"] for name in kept])


def _file_name(of: list[Any]) -> str:
    return f"fine-tuned-{hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"
