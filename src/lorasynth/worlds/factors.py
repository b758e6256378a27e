"""Factors by name, and within a range, as drawing needs them."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor


class Factors:
    """Factors in [0, 1] of a batch, each by its name."""

    def __init__(self, values: Float[Tensor, "B factors"], names: Iterable[str]):
        self._of = dict(zip(names, values.unbind(1), strict=True))

    def __getitem__(self, name: str) -> Float[Tensor, " B"]:
        return self._of[name]

    def __call__(self, name: str, low: float, high: float) -> Float[Tensor, "B 1 1"]:
        """A factor brought from [0, 1] to a range, of a shape to be drawn with."""
        return (low + (high - low) * self._of[name])[:, None, None]
