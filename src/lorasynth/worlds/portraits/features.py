"""What portraits show of a person: the same rules by which `draw` hides what is weak or covered."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.worlds.features import Features
from lorasynth.worlds.portraits.factors import IDENTITY

_RAMPS = {
    # Factor at which it begins to be drawn, and from which on it is drawn in full.
    "glasses": (0.65, 0.675),
    "freckles": (0.6875, 1.0),
    "mole": (0.5, 0.725),
    "beard": (0.565, 0.725),
    "moustache": (0.565, 0.703),
    "blush": (0.353, 1.0),
}
_PLACE = "mole_place"  # an angle: 0 and 1 are the same place
_NAMES = (*(name for name in IDENTITY if name != _PLACE), "mole_x", "mole_y")
_LONG_HAIR = 0.2  # hair_length from which on hair may cover the ears


def _of(identity: Float[Tensor, "B identity"]) -> tuple[Float[Tensor, "B features"], Bool[Tensor, "B features"]]:
    columns = dict(zip(IDENTITY, identity.unbind(1), strict=True))
    turn = 2 * math.pi * columns.pop(_PLACE)
    for name, (low, high) in _RAMPS.items():
        columns[name] = ((columns[name] - low) / (high - low)).clamp(0, 1)
    columns |= {"mole_x": torch.cos(turn), "mole_y": torch.sin(turn)}
    has_mole = columns["mole"] >= FEATURES.clear
    condition = {
        "glasses_size": columns["glasses"] >= FEATURES.clear,
        "mole_x": has_mole,
        "mole_y": has_mole,
        "moustache": columns["beard"] <= 0,  # a beard is of nearly the same colour, and all around it
        "ear_size": columns["hair_length"] < _LONG_HAIR,
    }
    everybody = torch.ones(len(identity), dtype=torch.bool, device=identity.device)
    visible = torch.stack([condition.get(name, everybody) for name in _NAMES], dim=1)
    return torch.stack([columns[name] for name in _NAMES], dim=1), visible


FEATURES = Features(
    names=_NAMES,
    of=_of,
    details=("glasses", "freckles", "mole", "beard", "moustache"),
    mirrored=("hair_parting", "mole_x"),
)
"""Visible features of portraits. An error of a mole's place counts on the circle, by its sine and cosine."""
