"""Factors in words: which of several names a number in [0, 1] stands for."""

from typing import TypeVar

from jaxtyping import Float, Int
from torch import Tensor

T = TypeVar("T")


def one_of(names: tuple[T, ...], factor: float) -> T:
    """The name whose equal part of [0, 1] a factor lies in. Values outside count as the nearest."""
    return names[min(max(int(factor * len(names)), 0), len(names) - 1)]


def which_of(names: tuple[T, ...], factor: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """The same for many factors at once: the number of each one's name."""
    return (factor * len(names)).long().clamp(0, len(names) - 1)
