"""Factors in words: which of several names a number in [0, 1] stands for."""

from typing import TypeVar

T = TypeVar("T")


def one_of(names: tuple[T, ...], factor: float) -> T:
    """The name whose equal part of [0, 1] a factor lies in; values outside count as the nearest."""
    return names[min(max(int(factor * len(names)), 0), len(names) - 1)]
