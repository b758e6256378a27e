"""Three kinds of plot as SVG text, to stand in a page: bars with intervals, curves, and distributions beside each other."""

import math
from collections.abc import Sequence
from html import escape

Interval = tuple[float, float, float]
"""Mean, low, high."""
COLOURS = ("#3b75af", "#d6803a", "#4d9a5b", "#8d6bb0")
_LEFT, _WIDTH, _LINE = 250, 560, 14  # of labels, of the plot, of a bar
_HEIGHT = 300.0  # of curves


def bars(rows: Sequence[tuple[str, Sequence[Interval]]], legend: Sequence[str]) -> str:
    """A group of bars for each label, one for each word of the legend, with their intervals as whiskers."""
    values = [v for _, group in rows for interval in group for v in interval]
    axis = _Axis(min(0.0, *values), max(0.0, *values))
    drawn, y = [], 0.0
    for label, group in rows:
        drawn.append(_label(label, y + _LINE * len(group) / 2))
        for (mean, low, high), colour in zip(group, COLOURS, strict=False):
            left, right = sorted((axis(0.0), axis(mean)))
            drawn.append(
                f'<rect x="{left:.1f}" y="{y + 2}" width="{right - left:.1f}" height="{_LINE - 3}" fill="{colour}"/>'
            )
            drawn.append(_line(axis(low), axis(high), y + _LINE / 2 + 0.5, 1.5))
            drawn += [_upright(axis(end), y + 3, y + _LINE - 2, 1.5) for end in (low, high)]
            y += _LINE
        y += 8
    return _svg(axis.drawn(y) + "".join(drawn) + _keys(legend, y + 28), y + 46)


def curves(lines: Sequence[tuple[str, Sequence[tuple[float, Interval]]]], x_label: str, y_label: str) -> str:
    """Intervals over something positive, to the right by its logarithm, joined. A line of one point is a dashed level.

    Raises:
        ValueError: fewer than two places to the right, one that is not positive, or more lines than there are colours.
    """
    places = sorted({x for _, points in lines if len(points) > 1 for x, _ in points})
    if len(places) < 2 or places[0] <= 0:
        raise ValueError(f"expected lines over at least two positive numbers, got {places}")
    if len(lines) > len(COLOURS):
        raise ValueError(f"expected at most {len(COLOURS)} lines, got {len(lines)}")
    right = _Axis(math.log10(places[0]), math.log10(places[-1]))
    values = [v for _, points in lines for _, interval in points for v in interval]
    up = _Axis(min(0.0, *values), max(0.0, *values), start=_HEIGHT, length=-_HEIGHT)
    drawn = [
        f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{up(t):.1f}" y2="{up(t):.1f}" stroke="#8884"/>{_label(f"{t:g}", up(t))}'
        for t in up.ticks()
    ]
    for (_, points), colour in zip(lines, COLOURS, strict=False):
        style = f'stroke="{colour}" stroke-width="2" fill="none"'
        if len(points) == 1:
            y = up(points[0][1][0])
            drawn.append(f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}" stroke-dasharray="6 4" {style}/>')
            continue
        joined = [(right(math.log10(x)), interval) for x, interval in sorted(points)]
        drawn.append(f'<path d="M{"L".join(f"{x:.1f} {up(mean):.1f}" for x, (mean, _, _) in joined)}" {style}/>')
        drawn += [f'<path d="M{x:.1f} {up(low):.1f}V{up(high):.1f}" {style}/>' for x, (_, low, high) in joined]
    numbers = "".join(
        f'<text x="{right(math.log10(x)):.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{_number(x)}</text>'
        for x in _apart(places, right)
    )
    words = (
        f'<text x="{_LEFT + _WIDTH / 2}" y="{_HEIGHT + 34}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{_LEFT - 60}" y="{_HEIGHT / 2}" text-anchor="end">{escape(y_label)}</text>'
    )
    keys = _keys([label for label, _ in lines], _HEIGHT + 46)
    return _svg("".join(drawn) + numbers + words + keys, _HEIGHT + 64)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _apart(places: Sequence[float], axis: "_Axis") -> list[float]:
    """Those that have room for their number, from the left."""
    named: list[float] = []
    for x in places:
        if not named or axis(math.log10(x)) - axis(math.log10(named[-1])) > 50:
            named.append(x)
    return named


def ranges(rows: Sequence[tuple[str, dict[str, float]]], mark: float, mark_label: str) -> str:
    """A line from the 1st to the 99th percentile for each label, a bar for the middle half, a tick at the median."""
    values = [mark, *(v for _, quantiles in rows for v in quantiles.values())]
    axis = _Axis(min(0.0, *values), max(values))
    drawn, y = [], 0.0
    for label, q in rows:
        drawn.append(_label(label, y + 9))
        drawn.append(_line(axis(q["p01"]), axis(q["p99"]), y + 9, 1.5))
        left, right = axis(q["p25"]), axis(q["p75"])
        drawn.append(f'<rect x="{left:.1f}" y="{y + 4}" width="{right - left:.1f}" height="10" fill="{COLOURS[0]}"/>')
        drawn.append(_upright(axis(q["p50"]), y + 2, y + 16, 2.0))
        y += 22
    x = axis(mark)
    drawn.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{y}" stroke="{COLOURS[1]}" stroke-width="2" stroke-dasharray="5 4"/>'
        f'<text x="{x:.1f}" y="{y + 36}" text-anchor="middle" style="fill:{COLOURS[1]}">{escape(mark_label)}</text>'
    )
    return _svg(axis.drawn(y) + "".join(drawn), y + 42)


class _Axis:
    """Values -> places, and the ticks."""

    def __init__(self, low: float, high: float, *, start: float = _LEFT, length: float = _WIDTH):
        self.low, self.high = low, high if high > low else low + 1
        self.start, self.length = start, length

    def __call__(self, value: float) -> float:
        return self.start + self.length * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers, eight or so."""
        rough = (self.high - self.low) / 8
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
        return [round(step * i, 12) for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def drawn(self, height: float) -> str:
        """Thin upright lines at the ticks, with the numbers below."""
        return "".join(
            f'<line x1="{self(t):.1f}" x2="{self(t):.1f}" y1="0" y2="{height}" stroke="#8884"/>'
            f'<text x="{self(t):.1f}" y="{height + 15}" text-anchor="middle">{t:g}</text>'
            for t in self.ticks()
        )


def _keys(legend: Sequence[str], y: float) -> str:
    apart = min(200, 600 // len(legend))
    return "".join(
        f'<rect x="{_LEFT + apart * i}" y="{y}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{_LEFT + apart * i + 16}" y="{y + 9}">{escape(word)}</text>'
        for i, (word, colour) in enumerate(zip(legend, COLOURS, strict=False))
    )


def _label(text: str, y: float) -> str:
    return f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'


def _line(left: float, right: float, y: float, width: float) -> str:
    return f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" stroke-width="{width}"/>'


def _upright(x: float, top: float, bottom: float, width: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="currentColor" stroke-width="{width}"/>'


def _svg(content: str, height: float) -> str:
    size = f'viewBox="0 0 {_LEFT + _WIDTH + 40} {height:.0f}"'
    return f'<svg {size} role="img" font-family="sans-serif" font-size="13">{content}</svg>'
