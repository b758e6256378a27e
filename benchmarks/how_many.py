"""How many LoRAs, and how many people with photos only, does a synthesizer need? Likeness over both, in the drawn world.

    python benchmarks/how_many.py --out out/how-many           # about 40 CPU minutes; the same again goes on
    python benchmarks/how_many.py --out out/how-many --table   # prints the cells that are done, as Markdown

One zoo grows, and every row of the table is a copy of it. The row of 0 LoRAs is of a zoo of the pilot alone (`--subjects 0`).
A row's VAE and ADALoRA prior are fitted once. Each cell trains them end to end for as many steps, on people who have no LoRA.
All cells share the drawn world's critic, and are scored on the same people, whom nothing has seen: two prompts, no guidance.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from both_ways import WORLD, Size, recipe_of

from lorasynth.evaluate.identity import interval
from lorasynth.gallery import Split
from lorasynth.pipeline.assembling import END_TO_END, put_together
from lorasynth.pipeline.fitting import fit_prior_stage, fit_vae_stage
from lorasynth.pipeline.recipe import Recipe
from lorasynth.pipeline.through_base import critic_stage, end_to_end_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.storage.files import write_json
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.world import get_world
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import PILOT_ALONE

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
from evidence.context import AT_ZERO, resemblance

LORAS = (PILOT_ALONE, 64, 256, 1_024)
PEOPLE = (256, 1_024, 4_096)
FIRST = ((0, 1_024), (256, 1_024), (0, 256), (0, 4_096), (1_024, 1_024), (64, 1_024))  # cells that tell most
PRIOR = "adalora"
PILOT_PEOPLE = 48
SCORED = 40


def recipe_for(loras: int, people: int, size: Size) -> Recipe:
    """A cell's recipe: LoRAs of a few steps, and people behind all of those who may have one."""
    usual = recipe_of(replace(size, loras=loras))
    assert usual.zoo is not None
    through = replace(
        usual.end_to_end.through, people=people, first_person=max(LORAS), photos=12, validation_people=16, people_a_step=8,
        drawing_steps=6,
        loop=replace(usual.end_to_end.through.loop, learning_rate=1e-3, warmup_steps=10, validate_every=size.steps),
    )  # fmt: skip
    zoo = replace(
        usual.zoo, pilot_people=PILOT_PEOPLE, adapt=replace(usual.zoo.adapt, steps=12, batch_size=4),
        pilot=replace(usual.zoo.pilot, steps=30, batch_size=4),
    )  # fmt: skip
    priors = tuple(prior for prior in usual.priors if prior.conditioning == PRIOR)
    return replace(usual, zoo=zoo, priors=priors, end_to_end=replace(usual.end_to_end, through=through))


def make_zoo(loras: int, size: Size, out: Path) -> Path:
    """The zoo of a row: a copy of the one that grows, or that of the pilot alone."""
    folder = out / f"zoo-{loras}"
    if folder.exists():
        return folder
    for fewer in LORAS[1:]:
        if fewer < loras:  # the growing zoo passes by
            make_zoo(fewer, size, out)
    config = recipe_for(loras, 1, size).zoo
    assert config is not None
    growing = out / ("zoo-pilot" if loras == PILOT_ALONE else "zoo")
    build_zoo(config, str(growing))
    part = out / f"zoo-{loras}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(growing, part)
    return part.rename(folder)


def fit_row(loras: int, size: Size, out: Path) -> Path:
    """VAE and priors of a row, and the critic."""
    folder, recipe = out / f"fit-{loras}", recipe_for(loras, 1, size)
    work = Workspace(recipe=recipe, folder=folder, zoo_folder=make_zoo(loras, size, out))
    if not (folder / "vae.json").exists():
        fit_vae_stage(work)
    if not (folder / "priors.json").exists():
        fit_prior_stage(work)
    shared = Workspace(recipe=recipe, folder=out / "critic")
    critic_stage(shared)
    shutil.copy(shared.folder / "critic.safetensors", folder)
    return folder


def make_cell(loras: int, people: int, size: Size, out: Path) -> dict[str, Any]:
    """Train a cell end to end, score it, and write its record."""
    began, recipe, folder = time.process_time(), recipe_for(loras, people, size), out / f"cell-{loras}-{people}"
    shutil.copytree(fit_row(loras, size, out), folder, dirs_exist_ok=True)
    work = Workspace(recipe=recipe, folder=folder, zoo_folder=out / f"zoo-{loras}")
    last = end_to_end_stage(work)
    model, subjects = put_together(work, END_TO_END), DrawnSubjects(get_world(WORLD))
    scored = subjects.people(Split.HELD_OUT, SCORED)
    embedding, settings = subjects.given(scored)[:, 0], AT_ZERO | {"scale": recipe.end_to_end.through.scale}
    with torch.no_grad():
        vectors = model.synthesize(embedding, prior=PRIOR, **settings)
        figures = resemblance(subjects, scored, model.canonicalizer.layout, vectors)
    fitted = json.loads((folder / "priors.json").read_text())
    record = {
        "loras": loras, "people": people, "size": asdict(size), "scored": SCORED, "figures": figures,
        "components": model.vae.stem.num_components, "explained": fitted[PRIOR]["explained"],
        "likeness": {key: last[f"likeness_{key}"] for key in ("before", "after")},
        "cpu_seconds": time.process_time() - began,
    }  # fmt: skip
    write_json(out / f"cell-{loras}-{people}.json", record)
    return record


def table(out: Path) -> str:
    """The cells that are done, as Markdown: similarity with its interval, and by the second recogniser."""
    lines = [
        "| LoRAs | " + " | ".join(f"{p:,} people with photos" for p in PEOPLE) + " |",
        "|---|" + "---|" * len(PEOPLE),
    ]
    for loras in LORAS:
        cells = []
        for people in PEOPLE:
            path = out / f"cell-{loras}-{people}.json"
            if not path.exists():
                cells.append("not run")
                continue
            record = json.loads(path.read_text())
            first, second = (interval(torch.tensor(record["figures"][n])) for n in ("similarity", "similarity2"))
            cells.append(f"{first['mean']:.3f} ({first['low']:.3f} to {first['high']:.3f}), {second['mean']:.3f}")
        lines.append(f"| {loras or 'the pilot alone'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """All cells, or those that are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--steps", type=int, default=200, help="end to end, of each cell")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        size = Size(photos=24, fit_steps=400, critic_steps=600, steps=given.steps)
        for loras, people in dict.fromkeys((*FIRST, *product(LORAS, PEOPLE))):
            if not (given.out / f"cell-{loras}-{people}.json").exists():
                make_cell(loras, people, size, given.out)
                print(table(given.out), flush=True)
    print(table(given.out))


if __name__ == "__main__":
    main()
