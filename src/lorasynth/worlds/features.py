"""What pictures of a world show of a person: visible features, and small details that are there or not.

A factor is not always visible. The size of glasses shows on people who wear some. Freckles fainter than a shade show on nobody.
So a score on factors counts what is drawn, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SAMPLE = 50_000  # random people on whom variances are counted


@dataclass(frozen=True, kw_only=True)
class Features:
    """The visible features of a world's people.

    ``of`` turns identity factors into values of the features, and says of which people each one is visible.
    ``details`` are features in [0, 1] that are drawn as strongly as they say, and not at all at 0. ``mirrored`` are the features
    that change sign, about their mean, in a mirrored picture. None where such a picture shows another person.
    """

    names: tuple[str, ...]
    of: Callable[[Float[Tensor, "B identity"]], tuple[Float[Tensor, "B features"], Bool[Tensor, "B features"]]]
    details: tuple[str, ...] = ()
    clear: float = 0.5  # of a detail that is drawn strongly enough to be seen
    mirrored: tuple[str, ...] | None = None

    def spread(self, num_factors: int) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
        """Mean and standard deviation of each feature among the people on whom it is visible."""
        generator = torch.Generator("cpu").manual_seed(0)
        people = torch.rand(_SAMPLE, num_factors, generator=generator, device="cpu")
        values, visible = self.of(people.to(torch.get_default_device()))
        count = visible.sum(0)
        mean = (values * visible).sum(0) / count
        return mean, (((values - mean).square() * visible).sum(0) / count).sqrt()

    def presence(
        self, values: Float[Tensor, "B features"], visible: Bool[Tensor, "B features"]
    ) -> tuple[Bool[Tensor, "B details"], Bool[Tensor, "B details"]]:
        """Of each detail: whether it is clearly there, and whether that can be said at all.

        It cannot of a faint trace, nor where something covers the place.
        """
        columns = [self.names.index(name) for name in self.details]
        strength, seen = values[:, columns], visible[:, columns]
        there = strength >= self.clear
        return there, seen & (there | (strength <= 0))


def every_factor(names: tuple[str, ...]) -> Features:
    """Features of a world in which every factor is visible on everybody."""
    return Features(names=names, of=lambda factors: (factors, torch.ones_like(factors, dtype=torch.bool)))
