"""Signed distances to simple shapes, in picture units: negative inside. What every drawn world is made of.

Coordinates have y down. A radius is a number or (B, 1, 1). The formulas of polygon, star, heart and vesica are after Quilez,
"2D distance functions" (2020).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.canvas import Plane

Number = float | Tensor


def _norm(x: Plane, y: Plane) -> Plane:
    return torch.sqrt(x * x + y * y + 1e-9)


def ellipse(x: Plane, y: Plane, radius_x: Tensor, radius_y: Tensor) -> Plane:
    """Approximate signed distance to an ellipse at the origin (exact on a circle)."""
    r = torch.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2 + 1e-6)
    return (r - 1) * torch.minimum(radius_x, radius_y)


def circle(x: Plane, y: Plane, radius: Number) -> Plane:
    """A disc at the origin."""
    return _norm(x, y) - radius


def box(x: Plane, y: Plane, half_width: Number, half_height: Number, corner: Number = 0.0) -> Plane:
    """A rectangle at the origin, its corners rounded with radius ``corner``."""
    dx, dy = x.abs() - half_width + corner, y.abs() - half_height + corner
    outside = _norm(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0) - corner


def polygon(x: Plane, y: Plane, radius: Number, sides: Number) -> Plane:
    """A regular polygon with a corner on top. ``radius`` is that of its corners."""
    turn, r = torch.atan2(x, -y), _norm(x, y)
    sector = 2 * math.pi / torch.as_tensor(sides)
    fold = torch.remainder(turn, sector) - sector / 2
    return r * torch.cos(fold) - radius * torch.cos(sector / 2)


def star(x: Plane, y: Plane, radius: Number, points: Number, inner: Number) -> Plane:
    """A star with a point on top: points at ``radius``, notches at ``inner`` times that."""
    turn, r = torch.atan2(x, -y), _norm(x, y)
    half = math.pi / torch.as_tensor(points)
    fold = (torch.remainder(turn + half, 2 * half) - half).abs()  # 0 at a point, `half` at a notch
    px, py = r * torch.cos(fold), r * torch.sin(fold)
    # The edge runs from the point (radius, 0) to the notch.
    ex, ey = inner * radius * torch.cos(half) - radius, inner * radius * torch.sin(half)
    length = torch.sqrt(ex * ex + ey * ey)
    return ((px - radius) * ey - py * ex) / length


def lobes(x: Plane, y: Plane, radius: Number, count: Number, depth: Number) -> Plane:
    """A flower: a circle whose radius swings by ``depth`` ``count`` times round, a petal on top (approximate)."""
    turn, r = torch.atan2(x, -y), _norm(x, y)
    return 0.8 * (r - radius * (1 - depth + depth * torch.cos(turn * count)))


def cog(x: Plane, y: Plane, radius: Number, count: Number, depth: Number) -> Plane:
    """A gear wheel with ``count`` square teeth, a tooth on top (approximate)."""
    turn, r = torch.atan2(x, -y), _norm(x, y)
    tooth = (torch.cos(turn * count) * 3.0).clamp(-1, 1)
    return 0.8 * (r - radius * (1 - depth / 2 + depth / 2 * tooth))


def heart(x: Plane, y: Plane, radius: Number) -> Plane:
    """A heart about ``radius`` large, point down."""
    px, py = x.abs() / (1.6 * radius), 0.58 - y / (1.6 * radius)
    above = _norm(px - 0.25, py - 0.75) - math.sqrt(2) / 4
    along = 0.5 * (px + py).clamp(min=0)
    below = torch.minimum(_norm(px, py - 1), _norm(px - along, py - along)) * torch.sign(px - py)
    return torch.where(px + py > 1, above, below) * (1.6 * radius)


def vesica(x: Plane, y: Plane, half_width: Number, half_height: Number) -> Plane:
    """A leaf: where two circles meet, pointed above and below. Narrower than it is high."""
    shift = (half_height**2 - half_width**2) / (2 * half_width)
    return _norm(x.abs() + shift, y) - (half_width + shift)


def crescent(x: Plane, y: Plane, radius: Number, bite: Number) -> Plane:
    """A moon, its horns to the right. ``bite`` in [0, 1] is how much of it is gone."""
    return torch.maximum(circle(x, y, radius), -circle(x - radius * (1.1 - 0.7 * bite), y, radius * 0.85))


def cross(x: Plane, y: Plane, radius: Number, arm: Number, corner: Number = 0.0) -> Plane:
    """A cross whose arms are ``arm`` wide each way."""
    return torch.minimum(box(x, y, radius, arm, corner), box(x, y, arm, radius, corner))


def shield(x: Plane, y: Plane, radius: Number, waist: Number) -> Plane:
    """A shield: straight on top, round to a point below. ``waist`` in [0, 1] makes it slender."""
    width = radius * (0.95 - 0.25 * waist)
    lower = vesica(x, y + 0.45 * radius, width, radius * 1.5)
    upper = box(x, y + 0.6 * radius, width, 0.3 * radius)
    return torch.minimum(torch.maximum(lower, -y - 0.45 * radius), upper)


def drop(x: Plane, y: Plane, radius: Number, length: Number) -> Plane:
    """A drop: a circle with a tip on top, ``length`` radii above its middle (more than 1)."""
    low = radius * 0.62
    tip = low * length
    # The tangent from the tip to the circle.
    sine = 1 / torch.as_tensor(length)
    cosine = torch.sqrt(1 - sine * sine)
    yy = y - 0.45 * low
    side = x.abs() * cosine + (-yy - tip) * sine
    cone = torch.maximum(side, yy + low * sine)
    return torch.minimum(circle(x, yy, low), cone)


def triangle(x: Plane, y: Plane, half_width: Number, top: Number, bottom: Number) -> Plane:
    """A gable from (0, ``top``) down to a base at ``bottom``, ``half_width`` to each side."""
    height = bottom - top
    slope = torch.sqrt(torch.as_tensor(half_width**2 + height**2))
    side = (x.abs() * height - (y - top) * half_width) / slope
    return torch.maximum(side, y - bottom)


def by_kind(
    kind: Int[Tensor, " B"], makers: Sequence[Callable[[Int[Tensor, " rows"]], Tensor]], like: Float[Tensor, "B ..."]
) -> Float[Tensor, "B ..."]:
    """Row ``i`` made by ``makers[kind[i]]``, which is given the rows that are its own: only what is drawn is computed."""
    made = torch.empty_like(like)
    for k, make in enumerate(makers):
        rows = (kind == k).nonzero()[:, 0]
        if len(rows):
            made[rows] = make(rows)
    return made
