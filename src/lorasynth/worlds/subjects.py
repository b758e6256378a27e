"""Who is who in a drawn world: numbers in, known factors out, and one table that says who may see whom.

What a LoRA is about (a person, an emblem, a style) is a number, called *person* wherever the kind does not matter. Person ``p``
has identity factors that depend on ``p`` alone. Photo ``j`` of person ``p`` has nuisance factors that depend on ``(p, j)`` alone,
or, from photo number `SESSION` on, on ``j`` alone: there all sat for one session. All are numbers in [0, 1) from a counter-based
hash, so any picture of a world can be asked for in any order, on any machine, and is the same.
"""

from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.gallery.gallery import Role, Split


@dataclass(frozen=True)
class _Row:
    role: Role
    split: Split | None  # None: of the world's own models, and in no gallery
    first: int
    count: int


_TABLE = (
    _Row(Role.EVALUATED, Split.HELD_OUT, 0, 5_000),
    _Row(Role.MEASURED, Split.HELD_OUT, 5_000, 2_000),
    _Row(Role.BENCHMARKED, Split.HELD_OUT, 7_000, 3_000),
    _Row(Role.CHOOSING, Split.VALIDATION, 10_000, 1_000),
    _Row(Role.STRANGERS, Split.VALIDATION, 11_000, 4_000),
    _Row(Role.STOPPING, Split.VALIDATION, 15_000, 4_000),
    _Row(Role.THRESHOLD, Split.VALIDATION, 19_000, 1_000),
    _Row(Role.ZOO, Split.TRAIN, 100_000, 50_000),
    _Row(Role.PILOT, Split.PILOT, 150_000, 1_000),
    _Row(Role.ZOO, Split.TRAIN, 151_000, 49_000),
    _Row(Role.BASE, None, 200_000, 100_000),
    _Row(Role.ENCODER, None, 300_000, 50_000),
    _Row(Role.CRITIC, None, 350_000, 50_000),
    _Row(Role.RECOGNISER, None, 400_000, 80_000),
    _Row(Role.READER, None, 480_000, 20_000),
)
"""The only place where person numbers stand."""

# Photo numbers. Those from SESSION on have the same settings (pose, light, background, clothes) for everybody.
GIVEN_PHOTO = 0  # the one photo that a synthesizer is given
SHOWN_FROM = 12  # photos that training through the base denoises
TUNED_FROM = 100  # photos that a held-out person's LoRA is fine-tuned on
REAL_FROM = 600  # photos that are scored as if they were generated
SCORED_FROM = 1_000  # photos that pictures are compared with
SCORED = 8  # of each person
SESSION = 32_768
_NUISANCE_STREAM = 1 << 40


@cache
def everybody(who: Role | Split) -> tuple[int, ...]:
    """All people of a role or a split."""
    rows = (row for row in _TABLE if who in (row.role, row.split))
    return tuple(chain.from_iterable(range(row.first, row.first + row.count) for row in rows))


def persons_of(who: Role | Split, count: int, *, offset: int = 0) -> list[int]:
    """The people ``offset … offset + count`` of a role or a split.

    Raises:
        UsageError: there are fewer.
    """
    people = everybody(who)
    if count < 1 or offset < 0 or offset + count > len(people):
        kind = "split" if isinstance(who, Split) else "role"
        raise UsageError(
            f"{kind} {who.value!r} holds {len(people)} people; expected 1 to that many, got {count} from {offset}"
        )
    return list(people[offset : offset + count])


def _row(person: int) -> _Row | None:
    return next((row for row in _TABLE if row.first <= person < row.first + row.count), None)


def role_of(person: int) -> Role | None:
    """The purpose that a person serves, or None for a number outside of the table, seen by nothing."""
    row = _row(person)
    return row.role if row else None


def split_of(person: int) -> Split | None:
    """The split of a person, or None for one of the world's own models' and for a number outside of the table."""
    row = _row(person)
    return row.split if row else None


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
