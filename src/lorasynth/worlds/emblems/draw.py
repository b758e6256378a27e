"""Factors in, pictures out: an emblem on a plain ground, drawn for a whole batch at once."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds import shapes
from lorasynth.worlds.canvas import Canvas, Plane
from lorasynth.worlds.colours import BACKGROUND_RGB, choose, hsl
from lorasynth.worlds.emblems.factors import CHARGES, IDENTITY, NUISANCE, PATTERNS, SHAPES
from lorasynth.worlds.emblems.patterns import pattern, softness
from lorasynth.worlds.factors import Factors
from lorasynth.worlds.words import which_of

_RADIUS = 0.54  # of an emblem, in picture units
PLACE_RANGE = 0.20
"""How far to the left and right of the middle an emblem may lie, in picture units."""


def _outline(kind: Int[Tensor, " B"], x: Plane, y: Plane, count: Tensor, depth: Tensor) -> Plane:
    """Signed distance to an emblem of each of `SHAPES`, its middle at the origin."""
    radius = _RADIUS

    def few(r: Tensor, low: int, high: int) -> Tensor:
        return torch.floor(low + (high + 0.999 - low) * count[r])

    makers = {
        "disc": lambda r: shapes.circle(x[r], y[r], radius * (0.88 + 0.12 * count[r])),
        "square": lambda r: shapes.box(x[r], y[r], radius * 0.85, radius * (0.7 + 0.2 * count[r]), 0.24 * depth[r]),
        "polygon": lambda r: shapes.polygon(x[r], y[r], radius * 1.08, few(r, 3, 8)) - 0.02 - 0.05 * depth[r],
        "star": lambda r: shapes.star(x[r], y[r], radius * 1.14, few(r, 4, 9), 0.42 + 0.3 * depth[r]),
        "flower": lambda r: shapes.lobes(x[r], y[r], radius * 1.1, few(r, 3, 9), 0.07 + 0.11 * depth[r]),
        "cog": lambda r: shapes.cog(x[r], y[r], radius * 1.08, few(r, 7, 14), 0.16 + 0.2 * depth[r]),
        "heart": lambda r: shapes.heart(x[r], y[r] - 0.02, radius * (0.85 + 0.15 * depth[r])),
        "shield": lambda r: shapes.shield(x[r], y[r], radius, depth[r]),
        "drop": lambda r: shapes.drop(x[r], y[r] - 0.1, radius * 1.1, 1.7 + 0.7 * depth[r]),
        "moon": lambda r: shapes.crescent(x[r] - 0.05, y[r], radius * 1.05, depth[r]),
        "cross": lambda r: shapes.cross(x[r], y[r], radius, radius * (0.28 + 0.24 * depth[r]), 0.10 * count[r]),
        "leaf": lambda r: shapes.vesica(x[r], y[r], radius * (0.45 + 0.25 * depth[r]), radius * 1.15),
    }
    return shapes.by_kind(kind, [makers[name] for name in SHAPES], x)


def _charge(kind: Int[Tensor, " B"], x: Plane, y: Plane, radius: Tensor) -> Plane:
    """Signed distance to the small figure of each of `CHARGES`."""
    makers = {
        "nothing": lambda r: torch.ones_like(x[r]),
        "disc": lambda r: shapes.circle(x[r], y[r], radius[r]),
        "ring": lambda r: shapes.circle(x[r], y[r], radius[r] * 0.85).abs() - radius[r] * 0.25,
        "star": lambda r: shapes.star(x[r], y[r], radius[r] * 1.35, 5.0, 0.45),
        "cross": lambda r: shapes.cross(x[r], y[r], radius[r] * 1.1, radius[r] * 0.38),
        "diamond": lambda r: shapes.polygon(x[r], y[r], radius[r] * 1.3, 4.0),
        "drop": lambda r: shapes.drop(x[r], y[r] - radius[r] * 0.3, radius[r] * 1.4, 2.0),
    }
    return shapes.by_kind(kind, [makers[name] for name in CHARGES], x)


def draw(
    identity: Float[Tensor, "B identity"], nuisance: Float[Tensor, "B nuisance"], size: int
) -> Float[Tensor, "B 3 H W"]:
    """Draw emblems.

    Args:
        identity: factors in [0, 1], columns as in `IDENTITY`.
        nuisance: factors in [0, 1], columns as in `NUISANCE`.
        size: pixels a side.

    Returns:
        RGB in [0, 1].
    """
    e, n = Factors(identity, IDENTITY), Factors(nuisance, NUISANCE)

    # Colours. The second one and the charge's keep their distance from the first: a pattern is always to be seen.
    lightness = 0.36 + 0.36 * e["fill_lightness"]
    fill = hsl(e["fill_hue"], 0.45 + 0.45 * e["fill_saturation"], lightness)
    away = 0.20 + 0.24 * e["accent_lightness"]
    second = torch.where(lightness > 0.54, lightness - away, lightness + away)
    accent = hsl(e["accent_hue"], 0.35 + 0.5 * e["accent_saturation"], second)
    rim = hsl(e["rim_hue"], torch.full_like(lightness, 0.5), 0.10 + 0.75 * e["rim_lightness"] ** 1.5)
    pale = e["charge_lightness"] > 0.5
    charge_lightness = torch.where(pale, 0.65 + 0.5 * (e["charge_lightness"] - 0.5), 0.1 + 0.35 * e["charge_lightness"])
    figure = hsl(e["charge_hue"], torch.full_like(lightness, 0.7), charge_lightness)
    background = choose(BACKGROUND_RGB, n["background"]) * (0.85 + 0.3 * n["background_shade"])[:, None]

    canvas = Canvas(background.clamp(0, 1), size)
    # Picture -> emblem coordinates: place, turn, zoom; then the emblem's own stretch and lean.
    angle, zoom = n("turn", -0.30, 0.30), n("zoom", 1.04, 1.24)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom

    def own(px: Tensor, py: Tensor) -> tuple[Plane, Plane]:
        u, v = px * cos + py * sin, py * cos - px * sin
        return (u - e("lean", -0.2, 0.2) * v) / e("stretch", 0.84, 1.12), v

    px, py = canvas.x - n("place", -PLACE_RANGE, PLACE_RANGE), canvas.y - n("height", -0.08, 0.10)
    x, y = own(px, py)
    shape, count, depth = which_of(SHAPES, e["shape"]), e("count", 0.0, 1.0), e("depth", 0.0, 1.0)
    outline = _outline(shape, x, y, count, depth)

    far = n("shadow", 0.03, 0.09)
    fallen = _outline(shape, *own(px - far * n("light_side", -1.0, 1.0), py - far), count, depth)
    canvas.paint(canvas.opacity(fallen, 0.06) * 0.30, torch.zeros_like(fill))

    # The face: two colours in a pattern, the charge, a line along the inside; all of it lit.
    face = Canvas(fill, size)
    turn = e("pattern_angle", 0.0, math.pi)
    u, v = x * torch.cos(turn) + y * torch.sin(turn), y * torch.cos(turn) - x * torch.sin(turn)
    kind = which_of(PATTERNS, e["pattern"])
    over = pattern(
        kind, u, v, e("pattern_scale", 0.20, 0.46), e("pattern_balance", 0.32, 0.66), e("pattern_phase", 0.0, 1.0)
    )
    face.paint(face.opacity(over, softness(kind)), accent)
    line = (outline + e("inset", 0.06, 0.16)).abs() - 0.012
    face.paint(face.opacity(line) * (e("inset", -0.8, 1.0) * 8).clamp(0, 1), rim)
    radius = e("charge_size", 0.11, 0.20)
    small = _charge(which_of(CHARGES, e["charge"]), x, y - e("charge_height", -0.12, 0.12), radius)
    face.paint(face.opacity(small - 0.025), fill * 0.55)
    face.paint(face.opacity(small), figure)
    light = 1 - n("light_side", -0.22, 0.22) * px / _RADIUS - n("light_height", 0.0, 0.25) * py / _RADIUS
    shine = torch.exp(-((px + n("light_side", -0.25, 0.25)) ** 2 + (py + 0.24) ** 2) / 0.03)
    lit = torch.lerp(face.rgb * light[:, None], torch.ones_like(face.rgb), (shine * e("gloss", 0.0, 0.6))[:, None])
    canvas.paint(canvas.opacity(outline), lit.clamp(0, 1))
    width = e("rim_width", 0.008, 0.042)
    canvas.paint(canvas.opacity(outline.abs() - width), (rim[:, :, None, None] * light[:, None]).clamp(0, 1))

    return (canvas.rgb * n("brightness", 0.86, 1.10)[:, None]).clamp(0, 1)
