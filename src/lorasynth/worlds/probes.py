"""What probes of several worlds are made of: the background's colour, and ridge regression on pixels."""

import re

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.worlds.colours import BACKGROUND_RGB, COLOUR_NAMES

_CORNER = 8  # pixels


class Tally:
    """Counts what obeyed, by what was asked."""

    def __init__(self) -> None:
        self._found: dict[str, list[Bool[Tensor, " N"]]] = {}

    def add(self, what: str, obeyed: Bool[Tensor, " N"]) -> None:
        """Some pictures that were asked for ``what``."""
        self._found.setdefault(what, []).append(obeyed)

    def parts(self) -> dict[str, float]:
        """The part of all pictures that obeyed, by what was asked."""
        return {what: torch.cat(found).float().mean().item() for what, found in self._found.items()}


def background_asked(prompt: str) -> str | None:
    """The colour of the background that a prompt asks for, if it does."""
    found = re.search(r"on an? (\w+) background", prompt)
    return found[1] if found else None


def background_obeyed(pictures: Float[Tensor, "N 3 H W"], colour: str) -> Bool[Tensor, " N"]:
    """Whether each picture has the background asked for.

    It is read from the two upper corners, which subjects leave free, and obeyed if the nearest of the named colours is the one
    asked for (by chance 1 in 8).
    """
    corners = torch.cat([pictures[:, :, :_CORNER, :_CORNER], pictures[:, :, :_CORNER, -_CORNER:]], dim=3).mean((2, 3))
    return torch.cdist(corners, BACKGROUND_RGB.to(corners.device)).argmin(1) == COLOUR_NAMES.index(colour)


def linear_probe(
    x: Float[Tensor, "N d"], target: Float[Tensor, "N *k"], ridge: float = 0.001
) -> tuple[Float[Tensor, "d *k"], Float[Tensor, " *k"]]:
    """Weight and bias of ridge regression. ``ridge`` is relative to the mean variance of a column of ``x``."""
    mean = x.mean(0)
    gram = (x - mean).T @ (x - mean)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, (x - mean).T @ (target - target.mean(0)))
    return weight, target.mean(0) - mean @ weight
