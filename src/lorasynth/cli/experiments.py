"""The verb that tests claims: experiment. What it runs stands beside the package, in a checkout's folder ``experiments``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, check_folder, check_json, emit, say, setup

FOLDER = Path(__file__).parents[3] / "experiments"
"""Beside the package's source, where it is a checkout."""


def experiment(
    name: Annotated[
        str | None, typer.Argument(help="Which; `all` for each of them. --list says what there is.")
    ] = None,
    zoo: Annotated[
        Path | None, typer.Option("--zoo", help="The zoo's folder, of a drawn world; needed where a cell is to be run.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Where results go, a file an experiment; what is there is not run again.")
    ] = Path("experiments/results"),
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How often each cell is run.")] = 5,
    people: Annotated[int, typer.Option(min=2, max=1_000, help="Held-out people whose pictures are drawn.")] = 24,
    recipe: Annotated[str, typer.Option(help="Whose sizes and steps are varied.")] = "portraits",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with the zoo in memory.")] = 1,
    list_them: Annotated[bool, typer.Option("--list", help="Say which experiments there are.")] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write the page of evidence, from the results in --out, to this file."),
    ] = None,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Test a claim: run an experiment's cells that have no result yet, and say what they decide.

    Example: lorasynth experiment conditioning --zoo runs/zoo
    """
    from lorasynth.errors import UsageError, ZooError
    from lorasynth.storage.outputs import require_new_output

    _find_experiments()
    from evidence import experiment_names, get_experiment

    if name is None and not list_them and report is None:
        raise UsageError(
            f"expected an experiment among {list(experiment_names())}, `all`, --list or --report FILE, got none"
        )
    asked = list(experiment_names()) if name in (None, "all") else [str(name)]
    check_json(json, out, *([report] if report else []), force=force)
    check_folder(out)
    if report is not None:
        require_new_output(report, force=force, suffix=".md")
    setup(device)
    experiments = [get_experiment(each) for each in asked]
    if list_them:
        if json is not None:
            listed = [
                {"name": each.name, "cells": len(each.cells) * seeds, "title": each.title} for each in experiments
            ]
            emit({"experiments": listed}, json)
            return
        for each in experiments:
            typer.echo(f"{each.name:16s} {len(each.cells) * seeds:3d} cells  {each.title}")
        return
    from evidence.report import page
    from evidence.runner import load, planned, run
    from lorasynth.storage.files import write_bytes
    from lorasynth.zoo.store import Zoo

    refused: list[ZooError] = []
    if name is not None:
        tasks = [t for each in experiments for t in planned(each, out, recipe=recipe, people=people, seeds=seeds)]
        left = sum(task.found is None for task in tasks)
        if not left:
            say(f"all {len(tasks)} cells have a result")
        elif zoo is None:
            raise UsageError(
                f"expected --zoo FOLDER to run {left} cells on, got none; `lorasynth zoo build portraits` makes one"
            )
        else:
            opened = Zoo.open(zoo)
            for each in experiments:
                try:
                    run(each, opened, out, recipe=recipe, people=people, seeds=seeds, workers=workers, report=say)
                except ZooError as error:  # the others may do with this zoo
                    refused.append(error)
        verdicts = {}
        for each in experiments:
            results, _ = load(each, out)
            for claim in each.claims:
                if (verdict := claim.criterion.verdict(results)) is None:
                    say(f"{each.name}: {claim.text}: not run")
                    continue
                say(f"{each.name}: {claim.text}: {verdict.figure} {verdict.interval}: {verdict.word}")
                verdicts[claim.text] = {
                    "experiment": each.name, "verdict": verdict.word, "figure": verdict.figure, **verdict.interval.__dict__
                }  # fmt: skip
        emit({"claims": verdicts, "results": str(out)}, json)
    if report is not None:
        everything = [get_experiment(each) for each in experiment_names()]
        for path, text in page(everything, out, report).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode())
        say(f"wrote {report}")
    if refused:
        raise refused[0]


def _find_experiments() -> None:
    """Put the checkout's packages `evidence` and `claims` on the path: worker processes import them by name.

    Raises:
        UsageError: the package was installed without its checkout.
    """
    from lorasynth.errors import UsageError

    if not (FOLDER / "evidence" / "__init__.py").is_file():
        raise UsageError(
            f"{FOLDER}: expected the experiments of a checkout, got an installed package without them; clone the repository "
            "and install it with `pip install -e .`"
        )
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
