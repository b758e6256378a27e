"""LoRAs of held-out faces by every method, and the alphabets that they draw; kept in a folder, so that a stopped run goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drawing import LETTERS, PLAIN, caption
from faces import Face
from glyph_scores import Embed
from lorasynth.base import Base, encode_photos, render
from lorasynth.errors import UsageError
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import read_tensors, write_json, write_tensors
from lorasynth.storage.reading import read_json
from lorasynth.storage.settings import config_difference
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig, train_people
from lorasynth.zoo.initialisation import random_init
from models import SUBJECT, letters_of

GIVEN = "Rag"
THIRTY = GIVEN + "BCEGHMNQSTWbcdefhklmnpqstvw"
"""What a LoRA is fine-tuned on for comparison; the other letters it has not seen."""
ON_THREE = replace(FINE_TUNING, steps=100, learning_rate=3e-3)
"""NOTE: of 3e-3 and 1e-2 this is better on three letters, and worse on thirty, by the unseen letters of validation faces."""
_BANK = 8
_OF = "drawing.json"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How alphabets are drawn."""

    letters: str = LETTERS
    guidance_scale: float = 2.0
    num_inference_steps: int = 12
    seed: int = 0
    on_three: AdaptConfig = ON_THREE
    on_thirty: AdaptConfig = FINE_TUNING


@dataclass(frozen=True, kw_only=True)
class Alphabets:
    """The LoRAs of N faces by one method, and K letters of each."""

    vectors: Float[Tensor, "N P"]
    pictures: Float[Tensor, "N K 3 S S"]


def given_embeddings(embed: Embed, faces: Sequence[Face]) -> Float[Tensor, "N D"]:
    """The unit mean of the embeddings of the given letters, as `Synthesizer.embed` pools photos."""
    means = torch.stack([embed(letters_of(face, GIVEN)).mean(0) for face in faces])
    return F.normalize(means, dim=1)


def fine_tuned(
    base: Base, layout: Layout, faces: Sequence[Face], letters: str, config: AdaptConfig
) -> Float[Tensor, "N P"]:
    """A LoRA of each face, trained the usual way on true letters."""
    pictures = torch.cat([letters_of(face, letters) for face in faces])
    captions = [caption(letter, PLAIN.ground, SUBJECT) for letter in letters] * len(faces)
    photos = encode_photos(base, pictures, captions, len(letters))
    return train_people(base, layout, random_init(layout, config.seed), photos, config, bank_size=_BANK)


Methods = dict[str, Callable[[], Float[Tensor, "N P"]]]
"""How each gets LoRAs of the faces."""


def yardsticks(base: Base, layout: Layout, faces: Sequence[Face], how: Drawing) -> Methods:
    """What a synthesizer is held against, and what needs none: fine-tuning on three letters and on thirty, and no LoRA."""
    return {
        "fine_tuned_three": lambda: fine_tuned(base, layout, faces, GIVEN, how.on_three),
        "fine_tuned_thirty": lambda: fine_tuned(base, layout, faces, THIRTY, how.on_thirty),
        "base": lambda: torch.zeros(len(faces), layout.num_parameters),
    }


def synthesised(
    model: Synthesizer, embed: Embed, faces: Sequence[Face], how: Drawing, priors: Sequence[str] | None = None
) -> Methods:
    """The priors of a synthesizer, all or some, from the three given letters.

    Raises:
        UsageError: it has no such prior.
    """
    chosen = priors or sorted(model.priors)
    if unknown := sorted({*chosen} - {*model.priors}):
        raise UsageError(f"expected priors among {', '.join(sorted(model.priors))}, got {', '.join(unknown)}")
    embeddings = given_embeddings(embed, faces)
    return {name: partial(model.synthesize, embeddings, seed=how.seed, prior=name) for name in chosen}


def scaled(model: Synthesizer, embed: Embed, faces: Sequence[Face], how: Drawing, scale: float) -> Methods:
    """The default prior at a scale: the model's own is chosen by similarity alone, whatever becomes of the letter."""
    prior, embeddings = model.default_prior, given_embeddings(embed, faces)
    return {f"{prior}_scale_{scale:g}": partial(model.synthesize, embeddings, seed=how.seed, prior=prior, scale=scale)}


def draw_alphabets(base: Base, layout: Layout, methods: Methods, how: Drawing, folder: Path) -> dict[str, Alphabets]:
    """Every method's, read from ``folder/METHOD.safetensors`` where they are there."""
    found = {}
    prompts = [caption(letter, PLAIN.ground, SUBJECT) for letter in how.letters]
    for name, vectors_of in methods.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            vectors = vectors_of()
            pictures = render(
                base, prompts, layout, vectors, seed=how.seed, chunk=1,
                guidance_scale=how.guidance_scale, num_inference_steps=how.num_inference_steps,
            )  # fmt: skip
            write_tensors(path, {"vectors": vectors, "pictures": (pictures * 255).round().to(torch.uint8)})
        kept, _ = read_tensors(path)
        found[name] = Alphabets(vectors=kept["vectors"], pictures=kept["pictures"].float() / 255)
    return found


def require_same(folder: Path, said: dict[str, Any]) -> None:
    """Keep with the alphabets what they are of.

    Raises:
        UsageError: those in the folder are of something else.
    """
    said, path = json.loads(json.dumps(said)), folder / _OF
    if path.exists() and (differs := config_difference(read_json(path), said)):
        raise UsageError(f"{folder}: holds other alphabets ({differs[0]}); choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, said)
