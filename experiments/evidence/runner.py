"""Running an experiment's cells: each result is one line of its file, and is not run again where it is there."""

import math
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from evidence.context import ExperimentContext, zoo_fingerprint
from evidence.experiment import Config, Experiment
from evidence.results import Record, ResultsFile
from evidence.statistics import Figures, Results
from lorasynth.devices import begin_worker
from lorasynth.errors import UsageError, ZooError
from lorasynth.recipes import get_recipe
from lorasynth.version import __version__
from lorasynth.workers.helpers import process_pool
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.zoo.store import Zoo

RECIPE, PEOPLE, SEEDS = "portraits", 24, 5
"""What is run by default: whose sizes and steps, how many people are drawn, how often a cell is run."""
IDENTITY = ("experiment", "cell", "config", "seed", "recipe", "people")
"""What makes a result the same cell's."""


@dataclass(frozen=True)
class Task:
    """One cell with one seed."""

    results: ResultsFile
    record: Record  # all but the zoo, the figures and the seconds
    run: Callable[[ExperimentContext, Config, int], Figures]
    found: Record | None  # the same cell's result; one whose configuration has changed since is not


def run(
    experiment: Experiment,
    zoo: Zoo,
    out: Path,
    *,
    recipe: str = RECIPE,
    people: int = PEOPLE,
    seeds: int = SEEDS,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> list[Record]:
    """Run the cells that have no result yet. Returns what was written, in the order of the cells.

    Args:
        experiment: which.
        zoo: of a drawn world.
        out: results go to ``out / EXPERIMENT.jsonl``.
        recipe: whose sizes and numbers of steps are varied.
        people: scored people whose pictures are drawn.
        seeds: 0 … seeds - 1.
        workers: processes of one thread, each with the zoo in memory.
        report: gets a line a cell.

    Raises:
        UsageError: a seed was begun on another zoo, results there are of another recipe or number of people, or a figure is not
            finite.
        ZooError: the zoo cannot be used, or not for some of the cells: all others were run.
    """
    if workers > 1:
        require_main_guard()
    tasks = planned(experiment, out, recipe=recipe, people=people, seeds=seeds)
    todo = [task for task in tasks if task.found is None]
    _require_same_size(todo)
    fingerprint = zoo_fingerprint(zoo)
    _require_one_zoo_a_seed(tasks, {task.record["seed"] for task in todo}, fingerprint)
    of = {"fingerprint": fingerprint, "loras": len(zoo), "layout": zoo.layout.hash}
    report(f"{experiment.name}: {len(todo)} of {len(tasks)} cells to run")
    arguments = [(replace(task, record=task.record | {"zoo": of}), str(zoo.folder)) for task in todo]
    if workers == 1 or len(todo) < 2:
        outcomes: Iterable[str | ZooError] = map(_work, arguments)
        refused = _told(outcomes, report)
    else:
        with process_pool(workers, begin_worker, str(torch.get_default_device())) as pool:
            done = as_completed([pool.submit(_work, pair) for pair in arguments])
            refused = _told((task.result() for task in done), report)
    if refused:
        raise ZooError(f"{len(refused)} of {len(todo)} cells cannot be run on this zoo; {refused[0]}")
    written = results_file(experiment, out).read()
    return [written[task.record["cell"], task.record["seed"]] for task in todo]


def planned(
    experiment: Experiment, out: Path, *, recipe: str = RECIPE, people: int = PEOPLE, seeds: int = SEEDS
) -> list[Task]:
    """All cells, seed by seed, whether they have a result or not; arguments as of `run`."""
    get_recipe(recipe)
    more = "" if (recipe, people) == (RECIPE, PEOPLE) else f" --recipe {recipe} --people {people}"
    command = f"lorasynth experiment {experiment.name} --zoo ZOO --seeds {seeds}{more}"
    results = results_file(experiment, out)
    found, tasks = results.read(), []
    for seed in range(seeds):
        for cell, config in experiment.cells.items():
            record = {
                "experiment": experiment.name, "cell": cell, "config": config, "seed": seed, "recipe": recipe, "people": people,
                "zoo": None, "command": command, "version": __version__, "commit": git_commit(),
            }  # fmt: skip
            before = found.get((cell, seed), {})
            same = all(before.get(key) == record[key] for key in IDENTITY)
            tasks.append(Task(results, record, experiment.run, before if same else None))
    return tasks


def results_file(experiment: Experiment, out: Path) -> ResultsFile:
    """Where an experiment's results are."""
    return ResultsFile(out / f"{experiment.name}.jsonl")


def _require_same_size(todo: list[Task]) -> None:
    """Refuse to replace a result of a cell as it is today, but of another recipe or number of people.

    Raises:
        UsageError: there is one.
    """
    for task in todo:
        there = task.results.read().get((task.record["cell"], task.record["seed"]))
        if there is None or there["config"] != task.record["config"]:
            continue
        was, asked = (f"recipe {r.get('recipe')} and {r.get('people')} people" for r in (there, task.record))
        raise UsageError(
            f"{task.results.path}: cell {task.record['cell']!r}: expected no result yet or one of {asked}, got one of {was}; "
            "choose another --out"
        )


def _require_one_zoo_a_seed(tasks: list[Task], seeds: set[int], fingerprint: str) -> None:
    """Seeds may be of several zoos, built alike (a zoo is then drawn anew as well). Cells of one seed, which are compared, not.

    Args:
        tasks: all that are planned.
        seeds: those of which something is still to be run.
        fingerprint: of the zoo that it will be run on.

    Raises:
        UsageError: such a seed was begun on another zoo.
    """
    for task in tasks:
        if task.record["seed"] not in seeds or task.found is None:
            continue
        if (was := task.found.get("zoo", {}).get("fingerprint")) != fingerprint:
            raise UsageError(
                f"{task.results.path}: cell {task.record['cell']!r}, seed {task.record['seed']}: expected a result of this zoo "
                f"({fingerprint}) beside cells that are not run yet, got one of another ({was}); go on with that zoo, choose "
                "another --out, or remove the lines of this seed"
            )


def _told(outcomes: Iterable[str | ZooError], report: Callable[[str], None]) -> list[ZooError]:
    """Report each cell's outcome. Returns the refusals."""
    refused = []
    for outcome in outcomes:
        report(str(outcome))
        if isinstance(outcome, ZooError):
            refused.append(outcome)
    return refused


def _work(pair: tuple[Task, str]) -> str | ZooError:
    """Run a cell and write its result. Returns a line to report, or why the zoo cannot be used for it."""
    task, folder = pair
    record = task.record
    context = _context(folder, record["recipe"], record["people"])
    start = time.perf_counter()
    try:
        figures = task.run(context, record["config"], record["seed"])
    except ZooError as error:
        return ZooError(f"{record['experiment']} {record['cell']}: {error}")
    seconds = time.perf_counter() - start
    where = f"{record['experiment']} {record['cell']} seed {record['seed']}"
    task.results.add(record | {"figures": _rounded(figures, where), "seconds": round(seconds, 1)})
    return f"{where}: {seconds:.0f} s"


@lru_cache(maxsize=1)
def _context(folder: str, recipe: str, people: int) -> ExperimentContext:
    return ExperimentContext.open(Zoo.open(folder), get_recipe(recipe), people)


def _rounded(figures: Figures, where: str) -> Figures:
    """Six digits, which is far below what people and seeds change."""

    def short(value: float) -> float:
        if not math.isfinite(value):
            raise UsageError(
                f"{where}: expected finite figures, got {value}; its training diverged, nothing was written"
            )
        return float(f"{value:.6g}")

    return {n: [short(x) for x in v] if isinstance(v, list) else short(v) for n, v in figures.items()}


def git_commit() -> str | None:
    """The commit of this very file, "-dirty" where the working tree is. None where it is in no repository."""
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", here.parent, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not that of a project with us in its .venv
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def load(experiment: Experiment, out: Path) -> tuple[Results, list[Record]]:
    """Results by cell, of the seeds that its cells have been run with, and the records that they are from.

    A cell that was not run with any seed is left out: there are cells that a small zoo does not allow.

    Args:
        experiment: which; results of its cells with other configurations than today's do not count.
        out: where `run` wrote.

    Raises:
        UsageError: results of several zoos in one seed, or of several sizes, or a line that is no result.
    """
    written = results_file(experiment, out).read()
    today = {
        key: r for key, r in written.items() if key[0] in experiment.cells and r["config"] == experiment.cells[key[0]]
    }
    results: Results = {cell: [] for cell in experiment.cells if any(cell == key[0] for key in today)}
    records = []
    for seed in sorted({seed for _, seed in today}):
        found = [today.get((cell, seed)) for cell in results]
        if all(record is not None for record in found):
            for cell, record in zip(results, found, strict=True):
                assert record is not None
                results[cell].append(record["figures"])
                records.append(record)
    alike = {(r["zoo"]["loras"], r["zoo"]["layout"], r["recipe"], r["people"]) for r in records}
    if len(alike) > 1 or len({(r["seed"], r["zoo"]["fingerprint"]) for r in records}) > len(
        {r["seed"] for r in records}
    ):
        raise UsageError(
            f"{results_file(experiment, out).path}: expected results of zoos built alike, one zoo a seed, and "
            "of one recipe and number of people, got several; remove the old ones"
        )
    return results, records
