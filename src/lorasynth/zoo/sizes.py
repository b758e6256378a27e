"""Is an update far larger than a zoo's others? Then it is damaged, or of another training, and one of it spoils a mean."""

import math

MIN_SEEN = 32  # before there are so many, nobody knows what is usual
MAX_SIGMA = 6.0
MIN_SPREAD = 0.05  # a zoo of almost equal sizes has hardly any, and a few percent more are no sign of damage


class Sizes:
    """Mean and spread of ``log ‖ΔW‖`` of what has been taken in, kept up to date item by item (Welford, 1962).

    Of the logarithm, because sizes of healthy LoRAs have a long tail to the right.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, size: float) -> None:
        """Remember one; zero, which says nothing of the others, is left out."""
        if size > 0:
            self._count += 1
            before = math.log(size) - self._mean
            self._mean += before / self._count
            self._squares += before * (math.log(size) - self._mean)

    def problem(self, size: float) -> str:
        """Why a size cannot be right, as "expected ..., got ..."; empty if it can, or if too few have been seen to say."""
        if self._count < MIN_SEEN or size == 0:
            return ""
        spread = max((self._squares / self._count) ** 0.5, MIN_SPREAD)
        most = math.exp(self._mean + MAX_SIGMA * spread)
        if size <= most:
            return ""
        return (
            f"expected an update of size {math.exp(self._mean):.3g}, at most {most:.3g} ({MAX_SIGMA:g} sigma above {self._count} "
            f"others), got {size:.3g}; check its alpha and its training"
        )
