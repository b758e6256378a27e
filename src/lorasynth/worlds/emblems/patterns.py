"""Patterns of emblems: where the second colour lies, as signed distances that repeat."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.canvas import Plane
from lorasynth.worlds.emblems.factors import PATTERNS
from lorasynth.worlds.shapes import by_kind, circle

_FADING = 1.0  # picture units over which the second colour fades in: a distance that the canvas blurs as much


def _fold(u: Plane, period: Tensor) -> Plane:
    """Coordinates from the middle of the period that they lie in."""
    return torch.remainder(u + period / 2, period) - period / 2


def pattern(
    kind: Int[Tensor, " B"],
    u: Plane,
    v: Plane,
    period: Float[Tensor, "B 1 1"],
    balance: Float[Tensor, "B 1 1"],
    phase: Float[Tensor, "B 1 1"],
) -> Plane:
    """Signed distance to the second colour.

    Args:
        kind: which of `PATTERNS`.
        u: coordinates across the pattern.
        v: coordinates along it.
        period: picture units after which it repeats.
        balance: part of the second colour in it, about 0.3 to 0.7.
        phase: where it starts, in periods.
    """
    shifted = u + phase * period

    def stripes(r: Tensor) -> Plane:
        return _fold(shifted[r], period[r]).abs() - balance[r] * period[r] / 2

    def checks(r: Tensor) -> Plane:
        k = math.pi / period[r]
        return -(torch.sin(shifted[r] * k) * torch.sin(v[r] * k) + (balance[r] - 0.5)) / k

    def dots(r: Tensor) -> Plane:
        row = torch.floor(v[r] / period[r] + 0.5)  # every other row is moved by half a period
        across = shifted[r] + torch.remainder(row, 2) * period[r] / 2
        return circle(_fold(across, period[r]), _fold(v[r], period[r]), (0.2 + 0.3 * balance[r]) * period[r])

    def rings(r: Tensor) -> Plane:
        radius = torch.sqrt(u[r] ** 2 + v[r] ** 2 + 1e-9) + phase[r] * period[r]
        return _fold(radius, period[r]).abs() - balance[r] * period[r] / 2

    def rays(r: Tensor) -> Plane:
        count = torch.round(2.2 / period[r]).clamp(min=3)
        turn, radius = torch.atan2(u[r], v[r]) + phase[r], torch.sqrt(u[r] ** 2 + v[r] ** 2 + 1e-9)
        return (torch.cos(turn * count) - 2 * (balance[r] - 0.5)) * radius / count

    def waves(r: Tensor) -> Plane:
        bent = shifted[r] + 0.25 * period[r] * torch.sin(v[r] * math.pi / period[r])
        return 0.8 * (_fold(bent, period[r]).abs() - balance[r] * period[r] / 2)

    def quarters(r: Tensor) -> Plane:
        across, along = u[r] + (phase[r] - 0.5) * 0.3, v[r] + (balance[r] - 0.5) * 0.4
        return -torch.minimum(across.abs(), along.abs()) * torch.sign(across * along)

    def fading(r: Tensor) -> Plane:
        return _FADING * (u[r] * (0.4 + 0.25 / period[r]) + phase[r] - 0.5 - (balance[r] - 0.5))

    makers = dict(zip(PATTERNS, (stripes, checks, dots, rings, rays, waves, quarters, fading), strict=True))
    return by_kind(kind, list(makers.values()), u)


def softness(kind: Int[Tensor, " B"]) -> Float[Tensor, "B 1 1"]:
    """By how much more than a pixel the edges of a pattern are blurred, in picture units."""
    return _FADING * (kind == PATTERNS.index("fading")).float()[:, None, None]
