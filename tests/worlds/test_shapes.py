"""Shapes are distances: negative inside, zero on the edge, and growing by no more than what one walks."""

import math

import pytest
import torch

from lorasynth.worlds import shapes
from lorasynth.worlds.canvas import Canvas

AXIS = torch.linspace(-1.5, 1.5, 301)
Y, X = (plane[None] for plane in torch.meshgrid(AXIS, AXIS, indexing="ij"))
HALF = torch.tensor(0.5)

SHAPES = {
    "circle": shapes.circle(X, Y, 0.5),
    "ellipse": shapes.ellipse(X, Y, torch.tensor(0.7), torch.tensor(0.4)),
    "box": shapes.box(X, Y, 0.6, 0.4, 0.1),
    "polygon": shapes.polygon(X, Y, 0.6, 5.0),
    "star": shapes.star(X, Y, 0.7, 5.0, 0.5),
    "lobes": shapes.lobes(X, Y, 0.6, 6.0, 0.1),
    "cog": shapes.cog(X, Y, 0.6, 8.0, 0.2),
    "heart": shapes.heart(X, Y, HALF),
    "vesica": shapes.vesica(X, Y, 0.3, 0.6),
    "cross": shapes.cross(X, Y, 0.6, 0.2),
    "shield": shapes.shield(X, Y, 0.6, 0.5),
    "drop": shapes.drop(X, Y, 0.7, 2.0),
    "triangle": shapes.triangle(X, Y, 0.5, -0.5, 0.5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_negative_inside_positive_far_away(name):
    distance = SHAPES[name][0]
    assert distance[150, 150] < 0
    border = torch.cat([distance[0], distance[-1], distance[:, 0], distance[:, -1]])
    assert border.min() > 0.2
    inside = (distance < 0).float().mean() * 9
    assert 0.2 < inside < 1.6  # of 9 square units


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"ellipse", "cog"}))
def test_near_its_edge_a_distance_grows_by_what_one_walks(name):
    distance = SHAPES[name]
    dy, dx = torch.gradient(distance[0], spacing=(AXIS, AXIS))
    slope = torch.sqrt(dx**2 + dy**2)[distance[0].abs() < 0.03]
    assert slope.median() == pytest.approx(1, abs=0.25)
    assert slope.max() < 1.6


def test_circles_distance_and_a_boxs_are_exact():
    far = shapes.circle(torch.tensor([[[3.0]]]), torch.tensor([[[4.0]]]), 0.5)
    assert far.item() == pytest.approx(4.5, abs=1e-4)
    corner = shapes.box(torch.tensor([[[3.5]]]), torch.tensor([[[4.5]]]), 0.5, 0.5)
    assert corner.item() == pytest.approx(5.0, abs=1e-4)


def test_polygon_has_its_corner_on_top_and_its_area():
    area = (shapes.polygon(X, Y, 0.8, 4.0) < 0).float().mean() * 9
    assert area.item() == pytest.approx(2 * 0.8**2, rel=0.03)
    assert shapes.polygon(torch.zeros(1, 1, 1), torch.full((1, 1, 1), -0.8), 0.8, 5.0).item() == pytest.approx(
        0, abs=1e-3
    )


def test_kinds_are_made_from_their_own_rows_only():
    kind, like = torch.tensor([1, 0, 1]), torch.arange(3.0)[:, None, None].expand(3, 2, 2)
    given = []

    def maker(sign):
        def make(rows):
            given.append(rows.tolist())
            return sign * like[rows]

        return make

    made = shapes.by_kind(kind, [maker(1), maker(-1), maker(math.nan)], like)
    assert made[:, 0, 0].tolist() == [0, 1, -2]
    assert given == [[1], [0, 2]]


def test_blurred_edge_is_wider_and_in_the_same_place():
    canvas = Canvas(torch.zeros(1, 3), 64)
    distance = canvas.x.expand(1, 64, 64)
    sharp, soft = canvas.opacity(distance), canvas.opacity(distance, 0.5)
    assert ((soft > 0) & (soft < 1)).sum() > 4 * ((sharp > 0) & (sharp < 1)).sum()
    assert torch.equal(soft > 0.5, sharp > 0.5)
