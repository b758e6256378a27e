"""Signed distances to simple shapes, in picture units: negative inside. What every drawn world is made of."""

import torch
from torch import Tensor

from lorasynth.worlds.canvas import Plane


def ellipse(x: Plane, y: Plane, radius_x: Tensor, radius_y: Tensor) -> Plane:
    """Approximate signed distance to an ellipse at the origin (exact on a circle)."""
    r = torch.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2 + 1e-6)
    return (r - 1) * torch.minimum(radius_x, radius_y)
