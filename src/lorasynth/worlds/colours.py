"""Colours: those with names, which a prompt can ask for and a picture can be checked against, and colours by hue."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.words import one_of

_NAMED = {
    "blue": (0.36, 0.55, 0.88),
    "green": (0.42, 0.72, 0.45),
    "red": (0.84, 0.34, 0.32),
    "yellow": (0.93, 0.82, 0.38),
    "purple": (0.60, 0.44, 0.78),
    "orange": (0.94, 0.62, 0.30),
    "white": (0.90, 0.90, 0.90),
    "gray": (0.52, 0.54, 0.56),
}
COLOUR_NAMES: tuple[str, ...] = tuple(_NAMED)
"""Names of the colours of backgrounds, in the order of the factor's eight equal parts."""

BACKGROUND_RGB = torch.tensor(list(_NAMED.values()))


def choose(table: Float[Tensor, "n 3"], factor: Float[Tensor, " B"], smooth: bool = False) -> Float[Tensor, "B 3"]:
    """The row of ``table`` that a factor in [0, 1] stands for. ``smooth`` blends between neighbouring rows."""
    table = table.to(factor.device)
    if not smooth:
        return table[(factor * len(table)).long().clamp(0, len(table) - 1)]
    place = factor * (len(table) - 1)
    low = place.long().clamp(0, len(table) - 2)
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])


def colour_name(factor: float) -> str:
    """The name of the colour that a factor in [0, 1] stands for."""
    return one_of(COLOUR_NAMES, factor)


def hsl(hue: Tensor, saturation: Tensor, lightness: Tensor) -> Float[Tensor, "B 3"]:
    """Hue in turns, saturation and lightness in [0, 1] -> RGB (the standard piecewise-linear formula)."""
    k = (torch.tensor([0.0, 8.0, 4.0]) + hue[:, None] * 12) % 12
    ramp = torch.minimum(k - 3, 9 - k).clamp(-1, 1)
    return lightness[:, None] - (saturation * torch.minimum(lightness, 1 - lightness))[:, None] * ramp


_HUES = (
    (0.035, "red"),
    (0.11, "orange"),
    (0.19, "yellow"),
    (0.45, "green"),
    (0.70, "blue"),
    (0.90, "purple"),
    (1.0, "red"),
)


def hue_name(hue: float) -> str:
    """The name of the colour that a hue in turns has when it is bright."""
    return next(name for end, name in _HUES if hue % 1 <= end)
