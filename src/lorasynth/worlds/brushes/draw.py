"""Factors in, pictures out: a scene of two things under a sky, drawn in a style, for a whole batch at once."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.brushes.factors import IDENTITY, NUISANCE, SKIES, THINGS
from lorasynth.worlds.brushes.things import Role, sky, thing
from lorasynth.worlds.canvas import Canvas, Plane
from lorasynth.worlds.colours import hsl
from lorasynth.worlds.factors import Factors
from lorasynth.worlds.words import which_of

_HUES = (0.36, 0.14, 0.0, 0.52, 0.80)  # of each role, in parts of the style's spread of hues
_LIGHTNESS = (-0.25, 0.9, 0.1, -0.55, 0.55)  # of each role, in parts of the style's contrast


@dataclass(frozen=True)
class _Shape:
    """One shape of a scene: distances in the style's wobbling coordinates, and again where the colour has slipped to."""

    distance: Plane
    fill_distance: Plane
    role: Int[Tensor, " B"]
    shade: Plane  # from 0, turned to the light, to 1


class _Style(Factors):
    """How everything is drawn: colours by role, and three layers a shape: colour, hatching, line."""

    def __init__(self, identity: Float[Tensor, "B identity"]):
        super().__init__(identity, IDENTITY)
        s = self
        spread = 0.05 + 0.95 * s["hue_spread"]
        lightness, contrast = 0.38 + 0.30 * s["lightness"], 0.08 + 0.20 * s["contrast"]
        saturation = 0.10 + 0.80 * s["saturation"]
        self.colours = torch.stack(
            [hsl(s["hue"] + spread * h, saturation, (lightness + contrast * v).clamp(0.08, 0.94))
             for h, v in zip(_HUES, _LIGHTNESS, strict=True)], dim=1,
        )  # fmt: skip
        paper = 0.62 + 0.34 * s["paper_lightness"]
        self.paper = hsl(s["paper_hue"], 0.75 * s["paper_saturation"] ** 1.5, paper)
        self.ink = hsl(s["line_hue"], torch.full_like(paper, 0.65), 0.05 + 0.40 * s["line_lightness"] ** 1.5)

    def coordinates(self, x: Tensor, y: Tensor) -> tuple[Plane, Plane]:
        """Where a trembling hand puts things."""
        size, rate = self("wobble", -0.01, 0.034).clamp(min=0), self("wobble_scale", 5.0, 13.0)
        return (
            x + size * (torch.sin(rate * y + 1.3) + 0.6 * torch.sin(1.7 * rate * x + 2.1)),
            y + size * (torch.sin(rate * x + 0.4) + 0.6 * torch.sin(1.6 * rate * y + 4.0)),
        )

    def slip(self) -> tuple[Tensor, Tensor]:
        """By how much colours are printed beside their lines."""
        far, angle = self("misprint", -0.05, 0.085).clamp(min=0), self("misprint_angle", 0.0, 2 * math.pi)
        return far * torch.cos(angle), far * torch.sin(angle)

    def _strokes(self, canvas: Canvas, angle: Tensor, shade: Plane) -> Plane:
        """Parallel strokes that are broader in the shade."""
        spacing = self("hatching_spacing", 0.085, 0.17)
        u = canvas.x * torch.cos(angle) + canvas.y * torch.sin(angle)
        away = (torch.remainder(u, spacing) - spacing / 2).abs()
        return canvas.opacity(away - spacing * (0.36 * shade - 0.04))

    def paint(self, canvas: Canvas, shape: _Shape) -> None:
        """One shape."""
        rounded = self("roundness", -0.02, 0.035).clamp(min=0)
        blur = self("blur", -0.06, 0.12).clamp(min=0)
        rows = torch.arange(len(shape.role), device=shape.role.device)
        lit = 1 + self("shading", -0.1, 0.75).clamp(min=0) * (0.45 - shape.shade)
        colour = (self.colours[rows, shape.role][:, :, None, None] * lit[:, None]).clamp(0, 1)
        canvas.paint(canvas.opacity(shape.fill_distance - rounded, blur), colour)
        inside = canvas.opacity(shape.distance - rounded)
        angle = self("hatching_angle", 0.0, math.pi)
        strength = (self("hatching", -1.0, 1.0) * 3).clamp(0, 0.85)
        canvas.paint(self._strokes(canvas, angle, shape.shade) * inside * strength, self.ink)
        crossed = (self("crossing", -1.2, 1.0) * 3).clamp(0, 1) * strength
        canvas.paint(self._strokes(canvas, angle + 1.35, shape.shade - 0.25) * inside * crossed, self.ink)
        width, drawn = self("line_width", 0.008, 0.042), (self("line_strength", -0.35, 1.0) * 5).clamp(0, 1)
        edge = (shape.distance - rounded).abs() - width
        canvas.paint(canvas.opacity(edge, 0.4 * blur) * drawn, self.ink)
        again = (shape.distance - rounded + self("sketching", 0.05, 0.09)).abs() - 0.5 * width
        canvas.paint(canvas.opacity(again) * drawn * (self("sketching", -1.4, 1.0) * 4).clamp(0, 0.8), self.ink)

    def finish(self, canvas: Canvas) -> Float[Tensor, "B 3 H W"]:
        """The paper's weave, and darker corners."""
        rate = self("grain_scale", 14.0, 42.0)
        weave = torch.sin(rate * (canvas.x + 0.3 * canvas.y)) * torch.sin(rate * (canvas.y - 0.3 * canvas.x))
        light = 1 + self("grain", -0.05, 0.10).clamp(min=0) * weave
        corner = (canvas.x**2 + canvas.y**2) / 2
        return (canvas.rgb * (light * (1 - self("vignette", -0.3, 0.5).clamp(min=0) * corner))[:, None]).clamp(0, 1)


def draw(
    identity: Float[Tensor, "B identity"], nuisance: Float[Tensor, "B nuisance"], size: int
) -> Float[Tensor, "B 3 H W"]:
    """Draw scenes, each in a style.

    Args:
        identity: factors in [0, 1] of the style, columns as in `IDENTITY`.
        nuisance: factors in [0, 1] of the scene, columns as in `NUISANCE`.
        size: pixels a side.

    Returns:
        RGB in [0, 1].
    """
    style = _Style(identity)
    n = Factors(nuisance, NUISANCE)
    canvas = Canvas(style.paper, size)
    x, y = style.coordinates(canvas.x, canvas.y)
    slip_x, slip_y = style.slip()

    def hill(px: Plane, py: Plane) -> Plane:
        return n("horizon", 0.28, 0.46) - py + n("hill", 0.0, 0.09) * torch.sin(2.6 * px + n("hill_x", 0.0, 6.28))

    ground = torch.full_like(n["left"], int(Role.GROUND)).long()
    shade = (0.15 + 0.5 * (y - 0.3)).clamp(0, 1)
    style.paint(canvas, _Shape(hill(x, y), hill(x - slip_x, y - slip_y), ground, shade))

    slots = (
        (
            sky,
            which_of(SKIES, n["sky"]),
            n("sky_x", -0.5, 0.5),
            n("sky_y", -0.70, -0.60),
            torch.full_like(shade[:, :1, :1], 0.42),
        ),
        (thing, which_of(THINGS, n["left"]), n("left_x", -0.52, -0.42), 0.20, n("left_size", 0.80, 0.94)),
        (thing, which_of(THINGS, n["right"]), n("right_x", 0.42, 0.52), 0.20, n("right_size", 0.80, 0.94)),
    )
    for parts_of, kind, middle_x, middle_y, large in slots:
        u, v = (x - middle_x) / large, (y - middle_y) / large
        distances, roles = parts_of(kind, u, v)
        slipped, _ = parts_of(kind, u - slip_x / large, v - slip_y / large)
        shade = (0.35 + 0.7 * u + 0.35 * v).clamp(0, 1)
        for k, (distance, fill_distance) in enumerate(zip(distances, slipped, strict=True)):
            style.paint(canvas, _Shape(distance * large, fill_distance * large, roles[:, k], shade))
    return style.finish(canvas)
