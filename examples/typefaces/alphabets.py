"""LoRAs of held-out faces by every method, and the alphabets that they draw; kept in a folder, so that a stopped run goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from drawing import LETTERS, PLAIN, caption
from faces import Face
from glyph_scores import Embed
from lorasynth.base import Base, encode_photos, render
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig
from lorasynth.zoo.initialisation import random_init
from lorasynth.zoo.people import train_people
from models import SUBJECT, letters_of

GIVEN = "Rag"
THIRTY = GIVEN + "BCEGHMNQSTWbcdefhklmnpqstvw"
"""What a LoRA is fine-tuned on for comparison; the other letters it has not seen."""
_BANK = 8


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How alphabets are drawn."""

    letters: str = LETTERS
    guidance_scale: float = 2.0
    num_inference_steps: int = 20
    seed: int = 0
    fine_tuning: AdaptConfig = FINE_TUNING


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
    base: Base, model: Synthesizer, faces: Sequence[Face], letters: str, how: Drawing
) -> Float[Tensor, "N P"]:
    """A LoRA of each face, trained the usual way on true letters."""
    pictures = torch.cat([letters_of(face, letters) for face in faces])
    captions = [caption(letter, PLAIN.ground, SUBJECT) for letter in letters] * len(faces)
    photos = encode_photos(base, pictures, captions, len(letters))
    layout = model.canonicalizer.layout
    return train_people(base, layout, random_init(layout, how.seed), photos, how.fine_tuning, bank_size=_BANK)


def methods(
    base: Base, model: Synthesizer, embed: Embed, faces: Sequence[Face], how: Drawing
) -> dict[str, Callable[[], Float[Tensor, "N P"]]]:
    """How each method gets LoRAs of faces: every prior of the model, fine-tuning on three letters and on thirty, none."""
    embeddings = given_embeddings(embed, faces)
    found: dict[str, Callable[[], Tensor]] = {
        name: partial(model.synthesize, embeddings, seed=how.seed, prior=name) for name in sorted(model.priors)
    }
    return found | {
        "fine_tuned_three": lambda: fine_tuned(base, model, faces, GIVEN, how),
        "fine_tuned_thirty": lambda: fine_tuned(base, model, faces, THIRTY, how),
        "base": lambda: torch.zeros(len(faces), model.canonicalizer.layout.num_parameters),
    }


def draw_alphabets(
    base: Base, model: Synthesizer, embed: Embed, faces: Sequence[Face], how: Drawing, folder: Path
) -> dict[str, Alphabets]:
    """Every method's, read from ``folder/METHOD.safetensors`` where they are there. Another model needs another folder."""
    found, layout = {}, model.canonicalizer.layout
    prompts = [caption(letter, PLAIN.ground, SUBJECT) for letter in how.letters]
    for name, vectors_of in methods(base, model, embed, faces, how).items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            vectors = vectors_of()
            pictures = render(
                base, prompts, layout, vectors, seed=how.seed, chunk=1,
                guidance_scale=how.guidance_scale, num_inference_steps=how.num_inference_steps,
            )  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"vectors": vectors, "pictures": (pictures * 255).round().to(torch.uint8)})
        kept, _ = read_tensors(path)
        found[name] = Alphabets(vectors=kept["vectors"], pictures=kept["pictures"].float() / 255)
    return found


def in_steps(how: Drawing, steps: int | None) -> Drawing:
    """The same with another number of fine-tuning steps, where one is given."""
    return how if steps is None else replace(how, fine_tuning=replace(how.fine_tuning, steps=steps))
