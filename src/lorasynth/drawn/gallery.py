"""A drawn world as a gallery: people by number, photos that are drawn when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.images import to_image
from lorasynth.errors import UsageError
from lorasynth.gallery.gallery import PhotoRef, Split, Use
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.subjects import (
    GIVEN_PHOTO,
    REAL_FROM,
    SCORED_FROM,
    SESSION,
    TUNED_FROM,
    Persons,
    everybody,
    split_of,
)

IMAGE_SIZE = 256
"""Pixels a side of whole photos."""
MOST_FIT_PHOTOS = 400
_SCORED = range(SCORED_FROM, SESSION)


def photo_numbers(split: Split, fit_photos: int) -> dict[Use, range]:
    """The photos of a person of a split, by use. No photo has two.

    Zoo LoRAs are all fine-tuned on photos of one session, a pilot on photos of each person's own settings.

    Args:
        split: the person's.
        fit_photos: on how many photos a LoRA is fine-tuned. Photos that a zoo's people are embedded by come after as many.
    """
    if split == Split.HELD_OUT:
        fit = range(TUNED_FROM, TUNED_FROM + fit_photos)
        given = range(GIVEN_PHOTO, TUNED_FROM)
        return {Use.GIVEN: given, Use.FIT: fit, Use.SCORE: _SCORED}
    return {
        Use.FIT: range(fit_photos) if split == Split.PILOT else range(SESSION, SESSION + fit_photos),
        Use.GIVEN: range(fit_photos, REAL_FROM),
        Use.SCORE: _SCORED,
    }


class _Names(Sequence[str]):
    """Person numbers as names."""

    def __init__(self, persons: Persons):
        self._persons = persons

    def __len__(self) -> int:
        return len(self._persons)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._persons[index]
        return str(found) if isinstance(found, int) else list(map(str, found))


@dataclass(frozen=True, kw_only=True)
class DrawnGallery:
    """People of a drawn world."""

    domain: Domain
    fit_photos: int = 16  # on which a LoRA is fine-tuned

    def __post_init__(self) -> None:
        if not 1 <= self.fit_photos <= MOST_FIT_PHOTOS:
            raise UsageError(f"expected 1 to {MOST_FIT_PHOTOS} photos to fine-tune on, got {self.fit_photos}")

    @property
    def name(self) -> str:
        """The world's."""
        return self.domain.name

    @property
    def record(self) -> dict[str, Any]:
        """Which world this is."""
        return {"kind": "world", "name": self.name, "licence": "Apache-2.0 (drawn by lorasynth)"}

    @property
    def subject(self) -> str:
        """The world's rare token and class noun."""
        return self.domain.subject

    @property
    def prompts(self) -> tuple[str, ...]:
        """What evaluation asks for."""
        return self.domain.prompts

    def subjects(self, split: Split) -> Sequence[str]:
        """Person numbers of a split, as text."""
        return _Names(everybody(split))

    def photos(self, subject: str, use: Use, count: int) -> list[PhotoRef]:
        """The first photos of a person that serve a purpose.

        Raises:
            UsageError: no split has such a person.
        """
        split = split_of(int(subject)) if subject.isdecimal() else None
        if split is None:
            raise UsageError(
                f"expected a person of a split (docs/reference/worlds.md), got {subject!r:.80}; take one of `subjects`"
            )
        return [
            PhotoRef(subject, f"{subject}/{number}", use)
            for number in photo_numbers(split, self.fit_photos)[use][:count]
        ]

    def pictures(self, photos: Sequence[PhotoRef], size: int) -> Float[Tensor, "B 3 S S"]:
        """Photos drawn at any size."""
        return self.domain.photos(*_numbers(photos), size) if photos else torch.zeros(0, 3, size, size)

    def masks(self, photos: Sequence[PhotoRef], size: int) -> None:
        """None: the loss looks at whole pictures."""

    def images(self, photos: Sequence[PhotoRef]) -> list[Image.Image]:
        """Photos of `IMAGE_SIZE` pixels."""
        return list(map(to_image, self.pictures(photos, IMAGE_SIZE)))

    def captions(self, photos: Sequence[PhotoRef]) -> list[str]:
        """The subject, and what is not the subject."""
        return self.domain.captions(*_numbers(photos)) if photos else []


def _numbers(photos: Sequence[PhotoRef]) -> tuple[list[int], list[int]]:
    pairs = [photo.name.split("/") for photo in photos]
    return [int(person) for person, _ in pairs], [int(number) for _, number in pairs]
