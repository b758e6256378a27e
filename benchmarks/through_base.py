"""Which settings of the training end to end give the most likeness for the same CPU time?

    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base           # 12 CPU minutes a row
    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base --table   # rows that are done, as Markdown

FOLDER is one that `lorasynth train all` has filled as far as priors and critic. Every row starts from these. It trains the
ADALoRA prior and the VAE for as many steps as fit into its time, which a few steps at its settings tell. Every row is scored on
the same people, who choose settings and are never reported. The same command again goes on.
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
_TIMED = (1, 2, 12)  # steps of short trainings: one to warm up, and two whose difference is that of steps alone


def config_of(recipe: Recipe, changes: dict[str, int], steps: int) -> EndToEndConfig:
    """The recipe's training with changes. More people a step have a rate higher by the square root."""
    through = replace(recipe.end_to_end.through, **changes)  # type: ignore[arg-type]
    rate = (through.people_a_step / recipe.end_to_end.through.people_a_step) ** 0.5
    loop = replace(
        through.loop, steps=steps, warmup_steps=min(20, steps // 2), learning_rate=rate * through.loop.learning_rate,
        validate_every=steps, ema_decay=0.99,
    )  # fmt: skip
    return replace(recipe.end_to_end, through=replace(through, loop=loop))


def cpu_seconds_a_step(work: Workspace, changes: dict[str, int]) -> float:
    """CPU seconds of one step, without what comes before and after all steps."""
    took = []
    for steps in _TIMED:
        began = time.process_time()
        trained(work, config_of(work.fitted, changes, steps), None)
        took.append(time.process_time() - began)
    return (took[-1] - took[-2]) / (_TIMED[-1] - _TIMED[-2])


def trained(work: Workspace, config: EndToEndConfig, run_dir: Path | None) -> Any:
    """The fitted synthesizer, trained end to end."""
    model, rows = put_together(work, "priors"), work.rows
    zoo = model.canonicalizer.view(rows.vectors).take(rows.train)
    end_to_end(work.require_subjects(), model, [PRIOR], critic_stage(work), zoo, config, run_dir=run_dir)
    return model


def make_row(work: Workspace, name: str, seconds: float, out: Path) -> dict[str, Any]:
    """Train a row, score it, and write its record."""
    path, run_dir = out / f"{name.replace(' ', '-')}.json", out / f"run-{name.replace(' ', '-')}"
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        return record
    timed = run_dir / "timed.json"  # a row that goes on has the steps that it began with
    if not timed.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(timed, {"cpu_seconds_a_step": cpu_seconds_a_step(work, ROWS[name])})
    a_step = json.loads(timed.read_text())["cpu_seconds_a_step"]
    steps = max(1, round(seconds / a_step))
    config = config_of(work.fitted, ROWS[name], steps)
    model, subjects = trained(work, config, run_dir / "training"), work.require_subjects()
    people = subjects.people(Role.CHOOSING, SCORED)
    settings = AT_ZERO | {"scale": config.through.scale, "num_inference_steps": config.through.num_inference_steps}
    with torch.no_grad():
        vectors = model.synthesize(subjects.given(people)[:, 0], prior=PRIOR, **settings)
        figures = resemblance(subjects, people, model.canonicalizer.layout, vectors)
    record = {
        "row": name, "seconds": seconds, "steps": steps, "people_a_step": config.through.people_a_step,
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
    parser.add_argument("--seconds", type=float, default=600.0, help="of CPU, that each row trains for")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = get_recipe(given.recipe)
    priors = tuple(prior for prior in recipe.priors if prior.conditioning == PRIOR)
    work = Workspace(recipe=replace(recipe, priors=priors), folder=given.fit, zoo_folder=given.zoo)
    records = []
    for name in ROWS:
        if given.table and not (given.out / f"{name.replace(' ', '-')}.json").exists():
            continue
        records.append(make_row(work, name, given.seconds, given.out))
        print(table(records), flush=True)


if __name__ == "__main__":
    main()
