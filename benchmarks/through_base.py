"""Which settings of the training end to end give the most likeness for the same CPU time?

    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base           # 8 CPU minutes a row
    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base --table   # rows that are done, as Markdown

FOLDER is one that `lorasynth train all` has filled as far as priors and critic. Every row starts from these. It trains the
ADALoRA prior and the VAE for as many steps as take the time of the recipe's row. A few steps of all rows in turns tell what a
step costs. Every row is scored on the same people, who choose settings and are never reported. The same command again goes on.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorasynth.evaluate.identity import interval
from lorasynth.experiments.context import AT_ZERO, resemblance
from lorasynth.gallery import Role
from lorasynth.pipeline.assembling import put_together
from lorasynth.pipeline.recipe import Recipe
from lorasynth.pipeline.through_base import critic_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.recipes import get_recipe
from lorasynth.refining import EndToEndConfig, end_to_end
from lorasynth.storage.files import write_json

USUAL = "the recipe's"
ROWS: dict[str, dict[str, int]] = {
    USUAL: {},
    "24 people a step": {"people_a_step": 24},
    "6 steps of drawing": {"drawing_steps": 6},
    "4 steps of the prior": {"num_inference_steps": 4},
    "4 steps of drawing": {"drawing_steps": 4},
    "6 of drawing, 4 of the prior": {"drawing_steps": 6, "num_inference_steps": 4},
    "48 people a step": {"people_a_step": 48},
}
"""What is changed of the training, in the order in which the rows are run."""

PRIOR = "adalora"
SCORED = 64
_TIMED = (2, 10)  # steps of two short trainings, whose difference is that of steps alone
_ROUNDS = 2  # in which all rows are timed in turns, since other work on a machine changes CPU time, too


def config_of(recipe: Recipe, changes: dict[str, int], steps: int) -> EndToEndConfig:
    """The recipe's training with changes. More people a step have a rate higher by the square root."""
    through = replace(recipe.end_to_end.through, **changes)  # type: ignore[arg-type]
    rate = (through.people_a_step / recipe.end_to_end.through.people_a_step) ** 0.5
    loop = replace(
        through.loop, steps=steps, warmup_steps=min(20, steps // 2), learning_rate=rate * through.loop.learning_rate,
        validate_every=steps, ema_decay=0.99,
    )  # fmt: skip
    return replace(recipe.end_to_end, through=replace(through, loop=loop))


def time_rows(work: Workspace, path: Path) -> dict[str, float]:
    """CPU seconds of a step of each row, without what comes before and after all steps: the fastest of rounds in turns."""
    if not path.exists():
        trained(work, config_of(work.fitted, {}, 1), None)  # to warm up
        rounds = [{name: cpu_seconds_a_step(work, changes) for name, changes in ROWS.items()} for _ in range(_ROUNDS)]
        write_json(path, {name: min(times[name] for times in rounds) for name in ROWS})
    times: dict[str, float] = json.loads(path.read_text())
    return times


def cpu_seconds_a_step(work: Workspace, changes: dict[str, int]) -> float:
    """CPU seconds of one step, by the difference of two trainings that validate on two people."""
    took = []
    for steps in _TIMED:
        config = config_of(work.fitted, changes, steps)
        began = time.process_time()
        trained(work, replace(config, through=replace(config.through, validation_people=2)), None)
        took.append(time.process_time() - began)
    return (took[1] - took[0]) / (_TIMED[1] - _TIMED[0])


def trained(work: Workspace, config: EndToEndConfig, run_dir: Path | None) -> Any:
    """The fitted synthesizer, trained end to end."""
    model, rows = put_together(work, "priors"), work.rows
    zoo = model.canonicalizer.view(rows.vectors).take(rows.train)
    end_to_end(work.require_subjects(), model, [PRIOR], critic_stage(work), zoo, config, run_dir=run_dir)
    return model


def record_of(name: str, out: Path) -> Path:
    """Where a row's record is written."""
    return out / f"{name.replace(' ', '-')}.json"


def make_row(work: Workspace, name: str, steps: int, a_step: float, out: Path) -> dict[str, Any]:
    """Train a row, score it, and write its record."""
    path = record_of(name, out)
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        return record
    run_dir = out / f"run-{path.stem}"
    config = config_of(work.fitted, ROWS[name], steps)
    model, subjects = trained(work, config, run_dir), work.require_subjects()
    people = subjects.people(Role.CHOOSING, SCORED)
    settings = AT_ZERO | {"scale": config.through.scale, "num_inference_steps": config.through.num_inference_steps}
    with torch.no_grad():
        vectors = model.synthesize(subjects.given(people)[:, 0], prior=PRIOR, **settings)
        figures = resemblance(subjects, people, model.canonicalizer.layout, vectors)
    record = {
        "row": name, "steps": steps, "people_a_step": config.through.people_a_step,
        "cpu_seconds_a_step": a_step, "figures": figures,
    }  # fmt: skip
    write_json(path, record)
    shutil.rmtree(run_dir)
    return record


def table(records: list[dict[str, Any]]) -> str:
    """Rows as Markdown: similarity, and what each gains over the recipe's, of the same people, with its interval."""
    usual = next(record for record in records if record["row"] == USUAL)
    lines = [
        "| Settings | CPU s a step | steps | people seen | similarity | more than the recipe's | second |",
        "|---" * 7 + "|",
    ]
    for record in records:
        first, second = (torch.tensor(record["figures"][name]) for name in ("similarity", "similarity2"))
        gain = interval(first - torch.tensor(usual["figures"]["similarity"]))
        lines.append(
            f"| {record['row']} | {record['cpu_seconds_a_step']:.2f} | {record['steps']:,} | "
            f"{record['steps'] * record['people_a_step']:,} | {first.mean():.3f} | "
            f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) | {second.mean():.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """All rows, or those that are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="portraits128")
    parser.add_argument(
        "--steps", type=int, default=240, help="of the recipe's row; others get as many as take as long"
    )
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table:
        found = [path for name in ROWS if (path := record_of(name, given.out)).exists()]
        if not record_of(USUAL, given.out).exists():
            parser.exit(2, f"{given.out}: expected the row of {USUAL} settings, got none; run it without --table\n")
        print(table([json.loads(path.read_text()) for path in found]))
        return
    recipe = get_recipe(given.recipe)
    priors = tuple(prior for prior in recipe.priors if prior.conditioning == PRIOR)
    work = Workspace(recipe=replace(recipe, priors=priors), folder=given.fit, zoo_folder=given.zoo)
    records = []
    given.out.mkdir(parents=True, exist_ok=True)
    times = time_rows(work, given.out / "seconds.json")
    for name in ROWS:
        steps = round(given.steps * times[USUAL] / times[name])
        records.append(make_row(work, name, steps, times[name], given.out))
        print(table(records), flush=True)


if __name__ == "__main__":
    main()
