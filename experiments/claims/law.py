"""How an error falls with the size of a zoo: a power law above a floor, fitted, and continued to other sizes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EXPONENTS = torch.linspace(0.02, 1.5, 149, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """``error = floor + b · size^-c``, R of them."""

    floor: Float[Tensor, " R"]
    b: Float[Tensor, " R"]
    exponent: Float[Tensor, " R"]

    @classmethod
    def fit(cls, sizes: Float[Tensor, " K"], error: Float[Tensor, "K R"]) -> "PowerLaw":
        """The law with the least squared error, floor and b not negative, c one of `EXPONENTS`.

        Args:
            sizes: K sizes of a zoo.
            error: R times, an error at each.
        """
        tried, misses = [], []
        for c in EXPONENTS:
            u = sizes**-c
            centred = u - u.mean()
            b = ((centred @ error) / centred.square().sum()).clamp(min=0)
            floor = error.mean(0) - b * u.mean()
            # Where the floor would be negative it is zero, and b is fitted alone.
            alone = (u @ error) / u.square().sum()
            b, floor = torch.where(floor < 0, alone, b), floor.clamp(min=0)
            tried.append(torch.stack([floor, b, c.expand_as(b)]))
            misses.append((error - floor - b * u[:, None]).square().sum(0))
        best = torch.stack(misses).argmin(0)
        floor, b, exponent = torch.stack(tried)[best, :, torch.arange(len(best))].unbind(1)
        return cls(floor, b, exponent)

    def __call__(self, size: int) -> Float[Tensor, " R"]:
        """The error at a size."""
        return self.floor + self.b * float(size) ** -self.exponent
