"""What an experiment is: a claim, cells that differ in one thing, figures of each cell, and a verdict on the figures.

``config → cell → figures → verdict``. Everything that decides the verdict stands in code before a cell is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lorasynth.experiments.lab import Lab
from lorasynth.experiments.statistics import Figures, Interval, Results

Config = dict[str, Any]
"""What makes a cell, as JSON values."""
MATTERS = 0.01
"""The least gain, of similarity or of variance explained, that is called one."""
ABOVE = f"the whole interval is above {MATTERS}, the least that matters (refuted: below)"
Word = Literal["confirmed", "refuted", "not decidable here"]


@dataclass(frozen=True)
class Verdict:
    """What figures say about a claim."""

    word: Word
    figure: str  # what was compared, in words
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that can be wrong."""

    text: str
    source: str  # of the sentence
    bar: str  # when it is confirmed and when refuted, in words
    judge: Callable[[Results], Verdict]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Cells, and what they are to decide."""

    name: str
    title: str  # what was run, in a sentence
    cells: dict[str, Config]
    run: Callable[[Lab, Config, int], Figures]  # (lab, config, seed) -> figures of the cell
    claims: tuple[Claim, ...]
    max_seeds: int = 5  # of a cell that is slow, or that no seed changes


def decide(figure: str, interval: Interval, bar: float) -> Verdict:
    """Confirmed where the whole interval lies above the bar, refuted where it lies below."""
    if interval.low > bar:
        return Verdict("confirmed", figure, interval)
    return Verdict("refuted" if interval.high < bar else "not decidable here", figure, interval)
