"""The exponential average of a model's weights, which is what a training hands out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """The running average of named parameters.

    The decay warms up as min(decay, (1 + step) / (10 + step)), so that a short training's average is not its first
    weights.

    Args:
        parameters: (name, parameter) pairs to follow.
        decay: how much of the average stays in one step; 0.999 averages about the last 1,000 steps.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self.parameters = parameters
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (counted from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [p.detach() for p in self.parameters.values()], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the average in the model. The trained weights come back after it."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        copy_into(self.parameters, self.tensors)
        try:
            yield
        finally:
            copy_into(self.parameters, kept)


@torch.no_grad()
def copy_into(parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Overwrite parameters with tensors of the same names."""
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
