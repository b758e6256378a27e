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
from lorasynth.subjects import Subjects
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.initialisation import random_init
from lorasynth.zoo.people import train_people

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
            with the same base model, layout, people and settings.
        report: gets a line for each ten people.
    """
    init = random_init(layout, seed)
    weights = fingerprint(*subjects.base.denoiser.parameters())
    vectors = []
    for start in range(0, len(people), _BANK):
        part = people[start : start + _BANK]
        key = json.dumps([subjects.name, weights, layout.hash, part, asdict(config), num_photos, seed], sort_keys=True)
        file = cache / f"fine-tuned-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors" if cache else None
        if file is not None and file.exists():
            vectors.append(read_tensors(file)[0]["vectors"])
            continue
        on = "the photo that is given" if num_photos == ONE_PHOTO else f"{num_photos} photos each"
        report(f"fine-tuning people {start + 1} to {start + len(part)} of {len(people)} on {on}")
        photos = subjects.given_photos(part) if num_photos == ONE_PHOTO else subjects.fitted(part, num_photos)
        vectors.append(train_people(subjects.base, layout, init, photos, config, bank_size=_BANK))
        if file is not None:
            make_folder(file.parent)
            write_tensors(file, {"vectors": vectors[-1]})
    return torch.cat(vectors)
