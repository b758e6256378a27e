"""A batch of pictures under construction: coordinates, soft edges, and one way to paint.

Every shape is an (approximate) signed distance in picture units (the canvas is [-1, 1]², y down), turned into an opacity
with an edge of about one pixel and painted over what is there. All of it is torch arithmetic on (B, H, W), so a batch costs
little more than a picture and any resolution gives the same picture.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Plane = Float[Tensor, "B H W"]


class Canvas:
    """A batch of pictures, each of one colour at first. ``rgb`` is (B, 3, H, W) in [0, 1]."""

    def __init__(self, colour: Float[Tensor, "B 3"], size: int):
        axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
        self.y, self.x = axis[None, :, None], axis[None, None, :]
        self.sharpness = size / 2.6  # opacity goes from 0 to 1 over about 1.3 pixels
        self.rgb = colour[:, :, None, None].expand(-1, -1, size, size).clone()

    def opacity(self, distance: Plane, blur: float | Float[Tensor, "B 1 1"] = 0.0) -> Plane:
        """1 inside, 0 outside. ``blur`` is the width of the edge beyond its pixel, in picture units."""
        return (0.5 - distance * (self.sharpness / (1 + blur * self.sharpness))).clamp_(0, 1)

    def paint(self, opacity: Plane, colour: Tensor) -> None:
        """Paint ``colour`` ((B, 3), or (B, 3, H, W) where it varies) where ``opacity`` says."""
        if colour.dim() == 2:
            colour = colour[:, :, None, None]
        self.rgb = torch.lerp(self.rgb, colour.expand_as(self.rgb), opacity[:, None])
