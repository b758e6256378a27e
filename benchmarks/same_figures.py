"""Are figures of experiments those of another checkout? Some cells of each, made small, on a zoo that each checkout makes.

    git clone . out/old && git -C out/old checkout COMMIT
    python benchmarks/same_figures.py out/old --out out/same-figures     # 10 minutes a checkout; what is there is not run again

The cells and what makes them small stand in each checkout's `tests/experiments/test_experiments.py`. A world whose synthesizer
is not shipped any more scores the other checkout's.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
Cells = dict[str, dict[str, Any]]
"""Figures by experiment and cell."""


def run_cells(checkout: Path, other: Path, out: Path) -> None:
    """Every cell's figures, into a file of the experiment."""
    import torch
    from test_experiments import SMALL, smaller  # type: ignore[import-not-found]  # the checkout's

    from lorasynth.zoo.build import build_zoo

    torch.set_num_threads(1)
    # What opens a zoo for cells had other names and places before.
    package = "evidence" if find_spec("evidence") else "lorasynth.experiments"
    new = find_spec(f"{package}.context") is not None
    room = import_module(f"{package}.{'context' if new else 'lab'}")
    get_experiment = import_module(package).get_experiment
    recipes = import_module("lorasynth.recipes")
    room.SCALES = (1.0, 2.0)
    recipe = (recipes.get_recipe if new else recipes.get_world_recipe)("portraits_tiny")
    zoo = build_zoo(recipe.zoo, str(out / "zoo"), report=lambda _: None)
    context = (room.ExperimentContext if new else room.Lab).open(zoo, recipe, people=2)
    if new and not (context.world.folder / "synthesizer").exists():
        assets = other / "src/lorasynth/assets" / context.world.name / "synthesizer"
        context.__dict__["synthesizer"] = import_module("lorasynth.synthesizer").Synthesizer.from_pretrained(assets)
    _write(out / "zoo.json", {"loras": {"vectors": context.vectors.double().sum(1).tolist()}})
    for name, cells in SMALL.items():
        if (file := out / f"{name}.json").exists():
            continue
        experiment = get_experiment(name)
        figures = {cell: experiment.run(context, smaller(experiment.cells[cell]), 0) for cell in cells}
        _write(file, figures)
        print(f"{checkout.name}: {name}", flush=True)


def start(checkout: Path, other: Path, out: Path) -> None:
    """`run_cells` in a process whose code is the checkout's."""
    out.mkdir(parents=True, exist_ok=True)
    places = ("src", "experiments", "tests/experiments")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(checkout / place) for place in places),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-P", __file__, str(checkout), "--out", str(out), "--worker", str(other)]
    subprocess.run(command, env=env, check=True)


def compare(old: Path, new: Path) -> None:
    """Print each cell's largest difference between two folders. Seconds are no figure of an experiment's."""
    for file in sorted(new.glob("*.json")):
        if not (old / file.name).exists():
            print(f"| {file.stem} | – | – | younger than the other checkout |")
            continue
        before: Cells = json.loads((old / file.name).read_text())
        after: Cells = json.loads(file.read_text())
        for cell, figures in after.items():
            names = [name for name in figures if name != "seconds"]
            if set(names) != set(before[cell]) - {"seconds"}:
                print(f"| {file.stem} | {cell} | other figures: {sorted(set(figures) ^ set(before[cell]))} |")
                continue
            pairs = [(_flat(before[cell][name]), _flat(figures[name])) for name in names]
            most = max(abs(a - b) for olds, news in pairs for a, b in zip(olds, news, strict=True))
            print(f"| {file.stem} | {cell} | {len(names)} | {most:.1e} |")


def _flat(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def _write(file: Path, figures: Cells) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(figures))
    part.rename(file)


def main() -> None:
    """Run what is missing in both checkouts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        run_cells(given.other, given.worker, given.out)
        return
    theirs = given.other.resolve()
    folders = {theirs: given.out / "other", HERE: given.out / "ours"}
    start(theirs, HERE, folders[theirs].resolve())
    start(HERE, theirs, folders[HERE].resolve())
    print("| experiment | cell | figures | largest difference |\n|---|---|---|---|")
    compare(*folders.values())


if __name__ == "__main__":
    main()
