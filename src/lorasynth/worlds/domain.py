"""The border between a drawn world and everything else: what each world has to say of itself, and what follows from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds import subjects
from lorasynth.worlds.features import Features, every_factor

Factors = dict[str, float]
"""Factors of one person or photo, by name."""


@runtime_checkable
class Probe(Protocol):
    """Reads off pictures whether they show what prompts asked for. It does not look at who or what the subject is."""

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each person drawn for prompt k, by what prompts ask for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What a world shows and says. Each is a folder beside this file, whose `domain.py` holds it as ``DOMAIN``."""

    name: str
    about: str  # what its pictures are, in a few words
    identity: tuple[str, ...]  # names of what makes a person, in column order
    nuisance: tuple[str, ...]  # names of what makes a photo, in column order
    draw: Callable[[Float[Tensor, "B identity"], Float[Tensor, "B nuisance"], int], Float[Tensor, "B 3 H W"]]
    subject: str  # the rare token and class noun of what a LoRA is about (DreamBooth's convention)
    anyone: str  # the class noun with its article
    head: str  # how a caption begins, {} being the subject
    identity_words: Callable[[Factors], list[str]]  # what can be said of a person, each a phrase to follow "with"
    photo_words: Callable[[Factors], list[str]]  # what can be said of a photo, whoever is in it
    vocabulary: tuple[str, ...]  # every word that a caption may hold
    prompts: tuple[str, ...]  # what evaluation asks for
    probe: Callable[[], Probe]  # fits one
    picture_size: int = 64  # pixels a side of what its base model draws
    details: tuple[str, ...] = ()  # identity factors that draw something small, and nothing at 0
    visible: Features | None = None  # what pictures show of a person; None: every factor
    smaller: str | None = None  # the world of the same people on smaller pictures, from which this one's models begin

    @property
    def features(self) -> Features:
        """What pictures show of a person."""
        return self.visible or every_factor(self.identity)

    def identity_factors(self, persons: list[int]) -> Float[Tensor, "B identity"]:
        """Identity factors in [0, 1), one row a person, columns as in ``identity``."""
        return subjects.identity_factors(persons, len(self.identity))

    def nuisance_factors(self, persons: list[int], photos: list[int]) -> Float[Tensor, "B nuisance"]:
        """Nuisance factors in [0, 1), one row a photo, columns as in ``nuisance``."""
        return subjects.nuisance_factors(persons, photos, len(self.nuisance))

    def photos(self, persons: list[int], photos: list[int], size: int) -> Float[Tensor, "B 3 H W"]:
        """Photo ``photos[i]`` of person ``persons[i]``, float RGB in [0, 1], ``size`` pixels square."""
        # As many as the cache holds; as many as fill a GPU.
        batch = 32 if torch.get_default_device().type == "cpu" else 4096
        identity, nuisance = self.identity_factors(persons), self.nuisance_factors(persons, photos)
        parts = zip(identity.split(batch), nuisance.split(batch), strict=True)
        return torch.cat([self.draw(who, how, size) for who, how in parts])

    def captions(self, persons: list[int], photos: list[int]) -> list[str]:
        """Captions of training photos of a LoRA: the subject, and what is not the subject."""
        rows = self.nuisance_factors(persons, photos).cpu()
        return [", ".join([self.head.format(self.subject), *self.photo_words(self._nuisance(row))]) for row in rows]

    def base_caption(
        self, identity: Float[Tensor, " identity"], nuisance: Float[Tensor, " nuisance"], generator: torch.Generator
    ) -> str:
        """A caption for the base model: phrases left out at random, so that any part of it can be asked for alone.

        One caption in ten is empty (for classifier-free guidance, Ho & Salimans 2022). Half say the subject, which therefore
        means nobody in particular until a LoRA gives it a meaning.
        """

        def chance(probability: float) -> bool:
            return bool(torch.rand((), generator=generator, device=generator.device) < probability)

        if chance(0.1):
            return ""
        subject = self.subject if chance(0.5) else self.anyone
        who = [w for w in self.identity_words(self._identity(identity)) if chance(0.4)]
        how = [w for w in self.photo_words(self._nuisance(nuisance)) if chance(0.8)]
        return ", ".join([self.head.format(subject) + (" with " + " and ".join(who) if who else ""), *how])

    def _identity(self, row: Float[Tensor, " identity"]) -> Factors:
        return dict(zip(self.identity, row.tolist(), strict=True))

    def _nuisance(self, row: Float[Tensor, " nuisance"]) -> Factors:
        return dict(zip(self.nuisance, row.tolist(), strict=True))
