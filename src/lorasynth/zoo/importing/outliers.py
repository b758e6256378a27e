"""Is an update far larger or smaller than a zoo's others? Then it is damaged, or of another training, and one spoils a mean."""

import math
from bisect import insort

MIN_SEEN = 32  # before there are so many, nobody knows what is usual
FALSE_ALARM = 0.01  # chance that one of as many sound LoRAs as have been seen is beyond the limit
MIN_SCALE = 0.05  # a zoo of almost equal sizes has hardly any, and a few percent more or less are no sign of damage


class Sizes:
    """The sizes ``log ‖ΔW‖`` of what has been taken in, by median and quartiles, which a few damaged ones do not move.

    Of the logarithm, because sizes vary by factors. Its tails are heavier than a normal one's, so that a fixed number of sigma
    refuses sound LoRAs of a large zoo. It is taken for Laplace's, ``P(|log size - median| > t) = exp(-t / b)``, whose quartiles
    are ``2 b log 2`` apart: one of n is beyond ``t = b log(n / p)`` with a chance of at most p (Bonferroni).
    """

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def add(self, size: float) -> None:
        """Remember one. Zero, which says nothing of the others, is left out."""
        if size > 0:
            insort(self._sorted, math.log(size))

    def problem(self, size: float) -> str:
        """Why a size cannot be right, as "expected ..., got ...". Empty if it can, or if too few have been seen to say."""
        n = len(self._sorted)
        if n < MIN_SEEN or size == 0:
            return ""
        lower, median, upper = (self._sorted[n * quarter // 4] for quarter in (1, 2, 3))
        b = max((upper - lower) / (2 * math.log(2)), MIN_SCALE)
        most = b * math.log(n / FALSE_ALARM)
        if abs(math.log(size) - median) <= most:
            return ""
        least, usual, largest = (math.exp(median + distance) for distance in (-most, 0.0, most))
        return (
            f"expected an update of size {least:.3g} to {largest:.3g}, as {n} others of median {usual:.3g} say, got {size:.3g}; "
            "check its alpha and its training"
        )
