"""The page of evidence: every claim with its figure, its interval and its verdict, from the results' files alone."""

import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence.experiment import Claim, Experiment, Verdict
from evidence.runner import load, results_file
from evidence.statistics import Interval, Results, mean
from lorasynth.errors import UsageError
from lorasynth.evaluate.plots import bars, curves

READING = """One experiment tests each claim. Its cells differ in one thing, and it is scored on people whom
nothing has seen. Its bar was written before its cells were run, unless the claim says otherwise.
Each section names its seeds. With fewer than five a verdict is preliminary. Seeds may be of
several zoos, built alike from nothing. The cells of one seed are of one zoo. This page is made
from the results' files and changes only with them.

* **In brackets**: the 95 % bootstrap interval over people and seeds. With few seeds it is rather
  too narrow. Comparisons are person by person.
* *similarity*, *similarity2*: mean cosine of drawn pictures to *other* photos of the person, by
  the conditioning encoder and by the second recogniser (two prompts, no guidance). Only the
  world's own synthesizer (cells `shipped` and `zero-shot`) is trained through the base. All others
  show what a zoo alone teaches. That of `portraits` is not shipped any more.
  `make reproduce RECIPE=portraits` makes one.
* *explained*: part of the variance of held-out people's ΔW about the zoo's mean LoRA.
* *scale*: of a method's canonical vectors, chosen on other people than those scored.
* After a claim stands its source. Sections are the paper's. The *digest* is a summary of it that
  proposes checks. *ours* is our own conjecture.
"""


def page(experiments: Sequence[Experiment], results_folder: Path, page_path: Path) -> dict[Path, str]:
    """The page as Markdown, and its plots.

    Args:
        experiments: in their order.
        results_folder: where `run` wrote. Experiments without a result there are named, and no more is said of them.
        page_path: where the page will be. Its plots will be in a folder of its name.

    Returns:
        The text of each file by its path.

    Raises:
        UsageError: a file there is no result, or results are of several recipes, or an experiment's of several zoos.
    """
    loaded = {e.name: load(e, results_folder) for e in experiments}
    were_run = [e for e in experiments if loaded[e.name][1]]
    judged = [(e, claim, claim.criterion.verdict(loaded[e.name][0])) for e in were_run for claim in e.claims]
    everything = [record for _, records in loaded.values() for record in records]
    if len(recipes := sorted({record["recipe"] for record in everything})) > 1:
        raise UsageError(
            f"{results_folder}: expected results of one recipe, got {recipes}; give each a folder of its own"
        )
    lines = [*_head(everything, results_folder, page_path), READING, *_zoos(everything)]
    if were_run:
        lines += _tally([(claim, verdict) for _, claim, verdict in judged if verdict is not None])
        lines += ["| claim | what was run | figure (95 % interval) | verdict |", "|---|---|---|---|"]
        lines += [_claim_row(*row) for row in judged]
    if left := [f"`{e.name}`" for e in experiments if e not in were_run]:
        lines += ["", *_wrapped(f"Not run in this world: {', '.join(left)}.")]
    files: dict[Path, str] = {}
    for experiment in were_run:
        results, records = loaded[experiment.name]
        lines += ["", f"## {experiment.name}", "", *_wrapped(f"{experiment.title}."), ""]
        for name, (words, drawn) in _plots(experiment, results).items():
            plot = page_path.with_suffix("") / f"{name}.svg"
            files[plot] = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
            lines += [f"![{words}]({plot.parent.name}/{plot.name})", ""]
        lines += _table(experiment, results, records, os.path.relpath(results_folder, page_path.parent))
        if experiment.further:
            lines += ["", *(row for line in experiment.further(results) for row in _wrapped(line))]
    return {page_path: "\n".join(lines) + "\n"} | files


def _head(records: list[dict[str, Any]], results_folder: Path, page_path: Path) -> list[str]:
    """Whose evidence it is, and the commands that run what is left and write the page again."""
    of, asked, out = "", "", results_folder.as_posix()
    if records:
        recipe, people = (records[0][name] for name in ("recipe", "people"))
        of, asked = f": {recipe}", f" --recipe {recipe} --people {people}"
    return [
        f"# The evidence{of}",
        "",
        "After this page you know which claims of the paper and of ours held in this world, by which",
        "figure, and how to test them again.",
        "",
        f"    lorasynth experiment all --zoo ZOO{asked} --out {out}",
        f"    lorasynth experiment --out {out} --report {page_path.as_posix()} --force",
        "",
        "The first command runs what has no result yet. The second writes this page again.",
        "",
    ]


def _wrapped(line: str) -> list[str]:
    """A line of prose at the width of all pages. Rows of tables stay whole."""
    if line.startswith("|") or not line:
        return [line]
    return textwrap.wrap(line, 98, break_long_words=False, break_on_hyphens=False)


def _zoos(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return ["No cell has been run yet.", ""]
    zoos: dict[str, set[str]] = {}
    for r in records:
        zoo = r["zoo"]
        kind = (
            f"{zoo['loras']:,} LoRAs of layout `{zoo['layout']}` ({r['people']} people drawn, recipe `{r['recipe']}`)"
        )
        zoos.setdefault(kind, set()).add(f"`{zoo['fingerprint']}`")
    of = ". ".join(f"{kind}, fingerprints {', '.join(sorted(prints))}" for kind, prints in sorted(zoos.items()))
    versions: dict[str, set[str]] = {}
    for r in records:
        versions.setdefault(r["version"], set()).add(r["commit"] or "no commit")
    code = ". ".join(f"{version} ({', '.join(sorted(commits))})" for version, commits in sorted(versions.items()))
    hours = sum(r["seconds"] for r in records) / 3600
    return [*_wrapped(f"{len(records):,} cells, {hours:.1f} hours of one thread. Zoos: {of}. Code: {code}."), ""]


def _tally(judged: list[tuple[Claim, Verdict]]) -> list[str]:
    """How many claims came out how: the paper's (and its digest's), and ours."""
    parts = []
    for whose, is_ours in (("the paper's and its digest's", False), ("our own", True)):
        words = [v.word for claim, v in judged if claim.source.startswith("ours") == is_ours]
        counts = ", ".join(f"{n} {word}" for word, n in Counter(sorted(words)).items())
        tested = f"Of {len(words)} claims of {whose}: {counts}." if words else f"No claim of {whose} was tested."
        parts.append(tested)
    return [*_wrapped(" ".join(parts)), ""]


def _claim_row(experiment: Experiment, claim: Claim, verdict: Verdict | None) -> str:
    what = f"[{experiment.name}](#{experiment.name}): {claim.criterion.words}"
    found = "– | not run" if verdict is None else f"{verdict.figure}: {verdict.interval} | **{verdict.word}**"
    return f"| {claim.text} ({claim.source}) | {what} | {found} |"


def _plots(experiment: Experiment, results: Results) -> dict[str, tuple[str, str]]:
    """By name, what is seen, in words, and the plot: bars of the plotted figures where cells have them all; curves."""
    plots = {}
    shown = [cell for cell, runs in results.items() if all(set(experiment.plotted) <= set(run) for run in runs)]
    if shown:
        rows = [(cell, [_ends(mean(results, cell, figure)) for figure in experiment.plotted]) for cell in shown]
        plots[experiment.name] = f"{' and '.join(experiment.plotted)} of each cell", bars(rows, experiment.plotted)
    for drawn in experiment.curves:
        lines = [
            (
                line.label,
                [(mean(results, cell, drawn.x).mean, _ends(mean(results, cell, line.figure))) for cell in line.cells],
            )
            for line in drawn.lines
        ]
        name = f"{experiment.name}-{drawn.y}-over-{drawn.x}".replace(" ", "-")
        plots[name] = f"{drawn.y} over {drawn.x}", curves(lines, drawn.x, drawn.y)
    return plots


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _table(experiment: Experiment, results: Results, records: list[dict[str, Any]], folder: str) -> list[str]:
    """All figures of an experiment's cells, and the file that they are from."""
    seeds, file = sorted({r["seed"] for r in records}), results_file(experiment, Path(folder)).path
    left = [f"`{cell}`" for cell in experiment.cells if cell not in results]
    names = list(dict.fromkeys(name for runs in results.values() for figures in runs for name in figures))
    lines = [
        f"    {re.sub('--seeds [0-9]+', f'--seeds {len(seeds)}', records[-1]['command'])}",
        "",
        *_wrapped(
            f"Seeds {', '.join(map(str, seeds))}. Results: [{file.name}]({file.as_posix()})."
            + (f" Cells not run: {', '.join(left)}." if left else "")
        ),
        "",
    ]
    lines += ["| cell | " + " | ".join([*names, "seconds a cell"]) + " |", "|---" * (len(names) + 2) + "|"]
    for cell, runs in results.items():
        values = [_figure(mean(results, cell, name)) if all(name in run for run in runs) else "–" for name in names]
        seconds = [r["seconds"] for r in records if r["cell"] == cell]
        lines.append(f"| {cell} | " + " | ".join([*values, f"{sum(seconds) / len(seconds):.0f}"]) + " |")
    return lines


def _figure(interval: Interval) -> str:
    """An interval. A number alone where no draw of people and seeds changes it."""
    if math.isclose(interval.low, interval.high, rel_tol=1e-6):
        return f"{interval.mean:,.0f}" if interval.mean == round(interval.mean) else f"{interval.mean:.3g}"
    return str(interval)
