"""Is an update far larger than a zoo's others? Then it is damaged, or of another training, and one of it spoils a mean."""

MIN_SEEN = 32  # before there are so many, nobody knows what is usual
MAX_SIGMA = 6.0


class Sizes:
    """Mean and spread of the sizes ``‖ΔW‖`` of what has been taken in, kept up to date item by item (Welford, 1962)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, size: float) -> None:
        """Remember one."""
        self._count += 1
        before = size - self._mean
        self._mean += before / self._count
        self._squares += before * (size - self._mean)

    def problem(self, size: float) -> str:
        """Why a size cannot be right, as "expected ..., got ..."; empty if it can, or if too few have been seen to say."""
        if self._count < MIN_SEEN:
            return ""
        # A zoo of almost equal sizes has hardly any spread, and a few percent more are no sign of damage.
        spread = max((self._squares / self._count) ** 0.5, 0.05 * self._mean)
        most = self._mean + MAX_SIGMA * spread
        if size <= most:
            return ""
        return (
            f"expected an update of size {self._mean:.3g} +- {spread:.2g} as {self._count} others, got {size:.3g}, more than "
            f"{MAX_SIGMA:g} sigma above; check its alpha and its training"
        )
