"""Who is who in a drawn world: numbers in, known factors out, and which part of the system may see whom.

What a LoRA is about (a person, an emblem, a style) is a number, called *person* wherever the kind does not matter. Person ``p``
has identity factors that depend on ``p`` alone; photo ``j`` of person ``p`` has nuisance factors that depend on ``(p, j)`` alone,
or, from photo number `SESSION` on, on ``j`` alone: there all sat for one session. All are numbers in [0, 1) from a counter-based
hash, so any picture of a world can be asked for in any order, on any machine, and is the same.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError


class Split(StrEnum):
    """Which part of the system may learn from a person."""

    HELD_OUT = "held_out"  # seen by nothing: evaluation and the demo
    VALIDATION = "validation"  # seen by nothing that is trained; settings are chosen on them
    ZOO = "zoo"  # zoo, VAE and prior
    BASE = "base"  # the base model
    ENCODER = "encoder"  # the conditioning encoder
    RECOGNISER = "recogniser"  # the second recogniser


@dataclass(frozen=True, kw_only=True)
class _Range:
    split: Split
    first: int
    count: int


_RANGES = (
    _Range(split=Split.HELD_OUT, first=0, count=10_000),
    _Range(split=Split.VALIDATION, first=10_000, count=10_000),
    _Range(split=Split.ZOO, first=100_000, count=100_000),
    _Range(split=Split.BASE, first=200_000, count=100_000),
    _Range(split=Split.ENCODER, first=300_000, count=100_000),
    _Range(split=Split.RECOGNISER, first=400_000, count=100_000),
)
_NUISANCE_STREAM = 1 << 40
SESSION = 32_768
"""Photo numbers from here on are those of a session that everybody sat for: photo j has one setting, whoever is in it."""


def persons_of(split: Split, count: int, *, offset: int = 0) -> list[int]:
    """The person numbers ``offset … offset + count`` of a split.

    Raises:
        UsageError: the split holds fewer people.
    """
    part = next(r for r in _RANGES if r.split == split)
    if count < 1 or offset < 0 or offset + count > part.count:
        raise UsageError(
            f"split {split.value!r} holds {part.count} people; expected 1 to that many, got {count} from {offset}"
        )
    return list(range(part.first + offset, part.first + offset + count))


def split_of(person: int) -> Split | None:
    """The split a person number belongs to, or None for a number outside every range (seen by nothing)."""
    for r in _RANGES:
        if r.first <= person < r.first + r.count:
            return r.split
    return None


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """One round of splitmix64, a 64-bit mixing function whose output bits look random (Steele et al., 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(keys: np.ndarray, num_columns: int) -> Float[Tensor, "B columns"]:
    """Uniform numbers in [0, 1) from integer keys: a row a key."""
    with np.errstate(over="ignore"):
        rows = _splitmix64(keys.astype(np.uint64))[:, None]
        bits = _splitmix64(rows + np.arange(num_columns, dtype=np.uint64)[None, :] * np.uint64(0xD1342543DE82EF95))
    return torch.as_tensor((bits >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


def identity_factors(persons: list[int], num_factors: int) -> Float[Tensor, "B identity"]:
    """Identity factors in [0, 1), one row a person."""
    return _uniform(np.asarray(persons, dtype=np.int64), num_factors)


def nuisance_factors(persons: list[int], photos: list[int], num_factors: int) -> Float[Tensor, "B nuisance"]:
    """Nuisance factors in [0, 1), one row a photo."""
    who, which = np.asarray(persons, dtype=np.int64), np.asarray(photos, dtype=np.int64)
    keys = np.where(which < SESSION, who, 0) * 65_536 + which + _NUISANCE_STREAM
    return _uniform(keys, num_factors)
