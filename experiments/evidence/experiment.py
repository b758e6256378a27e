"""What an experiment is: a claim, cells that differ in one thing, figures of each cell, and a verdict on the figures.

``config → cell → figures → verdict``. Everything that decides the verdict stands in code before a cell is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from evidence.context import ExperimentContext
from evidence.statistics import Figures, Interval, MissingCellError, Results, best, difference, ratio

Config = dict[str, Any]
"""What makes a cell, as JSON values."""
Word = Literal["confirmed", "refuted", "not decidable here"]
MATTERS = 0.01
"""The least gain, of similarity or of variance explained, that is called one."""


@dataclass(frozen=True)
class Verdict:
    """What figures say about a claim."""

    word: Word
    figure: str  # what was compared, in words
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A bar, and the figure that is held against it."""

    words: str  # when a claim is confirmed and when refuted, in words
    judge: Callable[[Results], Verdict]

    def verdict(self, results: Results) -> Verdict | None:
        """What the results say; None where a cell was not run that the criterion compares."""
        try:
            return self.judge(results)
        except MissingCellError:
            return None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that can be wrong."""

    text: str
    source: str  # of the sentence
    criterion: Criterion


@dataclass(frozen=True)
class Line:
    """A figure over cells, as one line of a plot. Of a single cell, a level."""

    label: str
    figure: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over another figure of their cells."""

    x: str  # the figure that is the way to the right, by its logarithm
    y: str  # what the lines are figures of
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Cells, and what they are to decide."""

    name: str
    title: str  # what was run, in a sentence
    cells: dict[str, Config]
    run: Callable[[ExperimentContext, Config, int], Figures]  # (context, config, seed) -> figures of the cell
    claims: tuple[Claim, ...]
    plotted: tuple[str, ...] = ("similarity", "similarity2")  # one or two figures
    curves: tuple[Curves, ...] = ()
    further: Callable[[Results], list[str]] | None = None  # what follows from all cells together, as lines of Markdown


def decide(figure: str, interval: Interval, bar: float) -> Verdict:
    """Confirmed where the whole interval lies above the bar, refuted where it lies below."""
    if interval.low > bar:
        return Verdict("confirmed", figure, interval)
    return Verdict("refuted" if interval.high < bar else "not decidable here", figure, interval)


def more(figure: str, one: str, other: str | tuple[str, ...], bar: float = MATTERS) -> Criterion:
    """A cell has more of a figure than another, or than the best of several, by at least the bar."""

    def judge(results: Results) -> Verdict:
        rival = other if isinstance(other, str) else best(results, other, figure)
        return decide(f"{figure}, {one} minus {rival}", difference(results, one, rival, figure), bar)

    rivals = other if isinstance(other, str) else f"the best of {', '.join(other)}"
    words = f"{figure} of {one} minus that of {rivals}: the whole interval is above {bar:g} (refuted: below)"
    return Criterion(words=words, judge=judge)


def times(figure: str, one: str, other: str, bar: float) -> Criterion:
    """A cell has so many times a figure of another."""

    def judge(results: Results) -> Verdict:
        return decide(f"{figure}, {one} over {other}", ratio(results, one, other, figure), bar)

    words = f"{figure} of {one} over that of {other}: the whole interval is above {bar:g} (refuted: below)"
    return Criterion(words=words, judge=judge)
