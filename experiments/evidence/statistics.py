"""Figures with their intervals: the bootstrap over people and over seeds.

A cell was run S times, each with another seed, and scored on the same N people each time. An interval is what the mean would have
been with other people and other seeds of the same kinds: both are drawn anew, with replacement. Two cells are compared on the
same draws, person by person and seed by seed, which takes out what makes a person hard for either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError

Figures = dict[str, float | list[float]]
"""Name -> a number, or one number a person."""
Results = dict[str, list[Figures]]
"""Cell -> its figures, one for each seed."""

RESAMPLES = 2_000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


class MissingCellError(UsageError):
    """A figure is asked of a cell that was not run."""


def scores(results: Results, cell: str, figure: str) -> Float[Tensor, "S N"]:
    """A figure of a cell: seeds by people (one column where it is one number).

    Raises:
        MissingCellError: the cell was not run.
        UsageError: it has no such figure.
    """
    runs = results.get(cell, [])
    if not runs or any(figure not in run for run in runs):
        kind = UsageError if runs else MissingCellError
        raise kind(f"expected figure {figure!r} of cell {cell!r}, got none; run the experiment's cells")
    values = [run[figure] for run in runs]
    return torch.tensor([v if isinstance(v, list) else [v] for v in values], dtype=torch.float64, device="cpu")


def mean(results: Results, cell: str, figure: str) -> Interval:
    """The mean of a figure."""
    return bootstrap(lambda means: means[0], scores(results, cell, figure))


def difference(results: Results, one: str, other: str, figure: str) -> Interval:
    """``one`` minus ``other``, on the same people and seeds."""
    pair = scores(results, one, figure), scores(results, other, figure)
    return bootstrap(lambda means: means[0] - means[1], *pair)


def ratio(results: Results, one: str, other: str, figure: str) -> Interval:
    """``one`` over ``other``, of the means, on the same people and seeds."""
    return bootstrap(lambda means: means[0] / means[1], scores(results, one, figure), scores(results, other, figure))


def best(results: Results, cells: Sequence[str], figure: str) -> str:
    """The cell with the largest mean."""
    return max(cells, key=lambda cell: scores(results, cell, figure).mean().item())


def bootstrap(statistic: Callable[[Float[Tensor, "K R"]], Tensor], *values: Float[Tensor, "S N"]) -> Interval:
    """A statistic of K means, with its interval by drawing people and seeds anew.

    Args:
        statistic: of the means of each of R resamples.
        values: K tables of seeds by people; where shapes are the same, so are the draws.
    """
    generator = torch.Generator("cpu")
    resampled = []
    for table in values:
        generator.manual_seed(0)
        seeds, people = (torch.randint(n, (RESAMPLES, n), generator=generator, device="cpu") for n in table.shape)
        # The mean over a resample is that of weights that count how often each was drawn.
        by_seed, by_person = (_counts(rows, n) for rows, n in zip((seeds, people), table.shape, strict=True))
        resampled.append(torch.einsum("rs,sn,rn->r", by_seed, table, by_person))
    middle = statistic(torch.stack([table.mean()[None] for table in values]))
    ends = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64, device="cpu")
    low, high = statistic(torch.stack(resampled)).quantile(ends).tolist()
    return Interval(middle.item(), low, high)


def _counts(rows: Tensor, n: int) -> Float[Tensor, "R n"]:
    """How often each of n was drawn, as parts of 1."""
    counts = torch.zeros(len(rows), n, dtype=torch.float64, device="cpu")
    return counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64)) / rows.shape[1]
