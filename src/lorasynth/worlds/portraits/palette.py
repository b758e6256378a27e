"""The colours that have names: what a prompt can ask for and a picture can be checked against."""

import torch
from jaxtyping import Float
from torch import Tensor

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
"""Names of the colours of backgrounds and shirts, in the order of the factor's eight equal parts."""

BACKGROUND_RGB = torch.tensor(list(_NAMED.values()))
SHIRT_RGB = BACKGROUND_RGB * 0.80
EYE_RGB = torch.tensor(
    [[0.30, 0.17, 0.07], [0.50, 0.34, 0.12], [0.25, 0.50, 0.25], [0.22, 0.47, 0.72], [0.50, 0.56, 0.60]]
)


def choose(table: Float[Tensor, "n 3"], factor: Float[Tensor, " B"], smooth: bool = False) -> Float[Tensor, "B 3"]:
    """The row of ``table`` that a factor in [0, 1] stands for; ``smooth`` blends between neighbouring rows."""
    table = table.to(factor.device)
    if not smooth:
        return table[(factor * len(table)).long().clamp(0, len(table) - 1)]
    place = factor * (len(table) - 1)
    low = place.long().clamp(0, len(table) - 2)
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])


def colour_name(factor: float) -> str:
    """The name of the colour that a background or shirt factor in [0, 1] stands for."""
    return COLOUR_NAMES[min(int(factor * len(COLOUR_NAMES)), len(COLOUR_NAMES) - 1)]
