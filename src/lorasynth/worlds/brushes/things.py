"""The things that scenes show, each as a few shapes: what there is to draw, whatever the style.

A thing stands on y = 0.5 and is about 1 high, its middle at x = 0. What hangs in the sky has its middle at the origin and a
radius of about 0.5. Later parts lie over earlier ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.brushes.factors import SKIES, THINGS
from lorasynth.worlds.canvas import Plane
from lorasynth.worlds.shapes import box, by_kind, circle, crescent, ellipse, lobes, star, triangle

PARTS = 3
"""Shapes of a thing."""


class Role(IntEnum):
    """What a shape is to its scene: a style has a colour for each."""

    GROUND = 0
    SKY = 1
    BODY = 2
    TOP = 3
    DETAIL = 4


@dataclass(frozen=True)
class Part:
    """A shape, as a function of coordinates, and its role."""

    role: Role
    distance: Callable[[Plane, Plane], Plane]


def _union(*distances: Plane) -> Plane:
    result = distances[0]
    for other in distances[1:]:
        result = torch.minimum(result, other)
    return result


def _number(value: float) -> Tensor:
    return torch.tensor(value)


def _hull(x: Plane, y: Plane) -> Plane:
    return torch.maximum(ellipse(x, y - 0.22, _number(0.52), _number(0.28)), 0.24 - y)


def _stem(x: Plane, y: Plane) -> Plane:
    return _union(box(x, y - 0.2, 0.03, 0.3), ellipse(x - 0.14, y - 0.3, _number(0.15), _number(0.06)))


def _cap(x: Plane, y: Plane) -> Plane:
    return torch.maximum(ellipse(x, y - 0.08, _number(0.45), _number(0.52)), y - 0.08)


def _stalks(x: Plane, y: Plane) -> Plane:
    arms = _union(box(x - 0.26, y + 0.10, 0.08, 0.20, 0.08), box(x + 0.26, y - 0.02, 0.08, 0.18, 0.08))
    elbows = _union(box(x - 0.15, y - 0.06, 0.16, 0.07, 0.05), box(x + 0.15, y - 0.12, 0.16, 0.07, 0.05))
    return _union(box(x, y - 0.02, 0.12, 0.48, 0.12), arms, elbows)


def _snow(x: Plane, y: Plane) -> Plane:
    zigzag = 0.06 * ((x * 7).remainder(2) - 1).abs()
    return torch.maximum(triangle(x, y, 0.58, -0.5, 0.5), y + 0.22 - zigzag)


_THINGS: dict[str, tuple[Part, ...]] = {
    "house": (
        Part(Role.BODY, lambda x, y: box(x, y - 0.2, 0.36, 0.3)),
        Part(Role.TOP, lambda x, y: triangle(x, y, 0.5, -0.5, -0.06)),
        Part(Role.DETAIL, lambda x, y: _union(box(x + 0.12, y - 0.33, 0.1, 0.17), box(x - 0.16, y - 0.16, 0.09, 0.09))),
    ),
    "tree": (
        Part(Role.DETAIL, lambda x, y: box(x, y - 0.28, 0.07, 0.22)),
        Part(Role.BODY, lambda x, y: _union(circle(x, y + 0.14, 0.3), circle(x.abs() - 0.2, y - 0.02, 0.22))),
        Part(Role.TOP, lambda x, y: _union(circle(x - 0.1, y - 0.02, 0.06), circle(x + 0.14, y + 0.1, 0.06))),
    ),
    "boat": (
        Part(Role.DETAIL, lambda x, y: box(x, y + 0.1, 0.03, 0.4)),
        Part(Role.TOP, lambda x, y: torch.maximum(triangle(x - 0.05, y, 0.42, -0.5, 0.14), 0.06 - x)),
        Part(Role.BODY, _hull),
    ),
    "flower": (
        Part(Role.DETAIL, _stem),
        Part(Role.BODY, lambda x, y: lobes(x, y + 0.16, 0.36, 6.0, 0.18)),
        Part(Role.TOP, lambda x, y: circle(x, y + 0.16, 0.12)),
    ),
    "mushroom": (
        Part(Role.DETAIL, lambda x, y: box(x, y - 0.26, 0.13, 0.24, 0.06)),
        Part(Role.BODY, _cap),
        Part(Role.TOP, lambda x, y: _union(circle(x.abs() - 0.2, y + 0.08, 0.07), circle(x, y + 0.24, 0.08))),
    ),
    "mountain": (
        Part(Role.BODY, lambda x, y: triangle(x, y, 0.58, -0.5, 0.5)),
        Part(Role.TOP, _snow),
        Part(Role.DETAIL, lambda x, y: triangle(x + 0.34, y, 0.24, 0.06, 0.5)),
    ),
    "car": (
        Part(Role.TOP, lambda x, y: box(x + 0.04, y - 0.02, 0.28, 0.18, 0.1)),
        Part(Role.BODY, lambda x, y: box(x, y - 0.24, 0.5, 0.14, 0.08)),
        Part(Role.DETAIL, lambda x, y: circle(x.abs() - 0.28, y - 0.38, 0.12)),
    ),
    "cactus": (
        Part(Role.BODY, _stalks),
        Part(Role.TOP, lambda x, y: lobes(x, y + 0.46, 0.12, 5.0, 0.15)),
        Part(Role.DETAIL, lambda x, y: box(x, y - 0.44, 0.24, 0.08, 0.03)),
    ),
}  # fmt: skip
_SKIES: dict[str, tuple[Part, ...]] = {
    "sun": (
        Part(Role.TOP, lambda x, y: star(x, y, 0.56, 12.0, 0.66)),
        Part(Role.SKY, lambda x, y: circle(x, y, 0.34)),
    ),
    "moon": (Part(Role.SKY, lambda x, y: crescent(x, y, 0.46, torch.tensor(0.7))),),
    "cloud": (
        Part(Role.SKY, lambda x, y: _union(
            circle(x, y + 0.1, 0.32), circle(x + 0.38, y - 0.06, 0.22), circle(x - 0.38, y - 0.04, 0.24),
            box(x, y - 0.14, 0.5, 0.14, 0.12))),
    ),
    "star": (Part(Role.SKY, lambda x, y: star(x, y, 0.5, 5.0, 0.48)),),
}  # fmt: skip
_FAR = 9.0  # the distance to a part that there is not


def _drawn(
    parts: list[tuple[Part, ...]], kind: Int[Tensor, " B"], x: Plane, y: Plane
) -> tuple[list[Plane], Int[Tensor, "B parts"]]:
    distances = []
    for number in range(PARTS):

        def maker(of_kind: tuple[Part, ...], number: int = number) -> Callable[[Tensor], Plane]:
            if number >= len(of_kind):
                return lambda r: torch.full_like(x[r], _FAR)
            return lambda r: of_kind[number].distance(x[r], y[r])

        distances.append(by_kind(kind, [maker(of_kind) for of_kind in parts], x))
    roles = torch.tensor([[part.role for part in (*p, *(p[-1],) * (PARTS - len(p)))] for p in parts])
    return distances, roles.to(kind.device)[kind]


def thing(kind: Int[Tensor, " B"], x: Plane, y: Plane) -> tuple[list[Float[Tensor, "B H W"]], Int[Tensor, "B parts"]]:
    """Signed distances to the `PARTS` shapes of one of `THINGS` each, and their roles."""
    return _drawn([_THINGS[name] for name in THINGS], kind, x, y)


def sky(kind: Int[Tensor, " B"], x: Plane, y: Plane) -> tuple[list[Float[Tensor, "B H W"]], Int[Tensor, "B parts"]]:
    """The same for one of `SKIES`."""
    return _drawn([_SKIES[name] for name in SKIES], kind, x, y)
