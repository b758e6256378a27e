"""Two kinds of plot as SVG text, to stand in a page: bars with intervals, and distributions beside each other."""

import math
from collections.abc import Sequence
from html import escape

Interval = tuple[float, float, float]
"""Mean, low, high."""
COLOURS = ("#3b75af", "#d6803a")
_LEFT, _WIDTH, _LINE = 250, 560, 14  # of labels, of the plot, of a bar


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
    keys = "".join(
        f'<rect x="{_LEFT + 200 * i}" y="{y + 28}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{_LEFT + 200 * i + 16}" y="{y + 37}">{escape(word)}</text>'
        for i, (word, colour) in enumerate(zip(legend, COLOURS, strict=False))
    )
    return _svg(axis.drawn(y) + "".join(drawn) + keys, y + 46)


def ranges(rows: Sequence[tuple[str, dict[str, float]]], mark: float, mark_label: str) -> str:
    """A line from the 1st to the 99th percentile for each label, a bar for the middle half, a tick at the median; one mark."""
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

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high if high > low else low + 1

    def __call__(self, value: float) -> float:
        return _LEFT + _WIDTH * (value - self.low) / (self.high - self.low)

    def drawn(self, height: float) -> str:
        """Thin upright lines at round numbers, with the numbers below."""
        rough = (self.high - self.low) / 8
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
        ticks = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return "".join(
            f'<line x1="{self(t):.1f}" x2="{self(t):.1f}" y1="0" y2="{height}" stroke="#8884"/>'
            f'<text x="{self(t):.1f}" y="{height + 15}" text-anchor="middle">{t:g}</text>'
            for t in (round(t, 12) for t in ticks)
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
