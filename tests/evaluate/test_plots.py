"""Plots as SVG: what stands where."""

import re
from xml.etree import ElementTree

import pytest

from lorasynth.evaluate.plots import curves

LINES = [
    ("a", [(1.0, (0.0, -0.5, 0.5)), (100.0, (1.0, 0.5, 1.5)), (10.0, (0.5, 0.5, 0.5))]),
    ("level", [(0.0, (1.0, 1.0, 1.0))]),
]


def paths(svg):
    return [e.attrib for e in ElementTree.fromstring(svg).iter() if e.tag == "path"]


def test_curves_go_right_by_the_logarithm_and_up_by_the_value():
    drawn = paths(curves(LINES, "seconds", "likeness"))
    line, level = drawn[0], drawn[-1]
    points = [tuple(map(float, point.split())) for point in line["d"][1:].split("L")]
    (x1, y1), (x2, y2), (x3, y3) = points  # by their place, in whatever order they came
    assert 0 < x2 - x1 == pytest.approx(x3 - x2)
    assert 0 < y1 - y2 == pytest.approx(y2 - y3)
    assert level["d"].split("H")[0].split()[1] == f"{y3:.1f}"
    assert "stroke-dasharray" in level
    assert "stroke-dasharray" not in line
    whisker = re.fullmatch(r"M([\d.]+) ([\d.]+)V([\d.]+)", drawn[1]["d"])
    assert [float(v) for v in whisker.groups()] == [
        x1,
        pytest.approx(y1 + (y1 - y2), abs=0.2),
        pytest.approx(y2, abs=0.2),
    ]


def test_curves_name_their_lines_and_axes():
    words = {e.text for e in ElementTree.fromstring(curves(LINES, "seconds", "likeness")).iter() if e.text}
    assert {"a", "level", "seconds", "likeness", "1", "10", "100", "0.5"} <= words


def test_curves_leave_no_line_out():
    with pytest.raises(ValueError, match="expected at most 4 lines, got 5"):
        curves(LINES[:1] * 5, "x", "y")


@pytest.mark.parametrize("places", [(1.0,), (2.0, 2.0), (0.0, 1.0), (-1.0, 1.0)])
def test_curves_need_places_on_a_logarithm(places):
    with pytest.raises(ValueError, match=r"expected lines over at least two positive numbers, got \["):
        curves([("a", [(x, (0.0, 0.0, 1.0)) for x in places] * 2)], "x", "y")
