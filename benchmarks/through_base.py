"""Which settings of the training end to end give the most likeness for the same CPU time?

    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base           # 8 CPU minutes a row
    python benchmarks/through_base.py --fit FOLDER --zoo ZOO --out out/through-base --table   # rows that are done, as Markdown

FOLDER is one that `lorasynth train all` has filled as far as priors and critic. Every row starts from these. It trains the
ADALoRA prior and the VAE for as many steps as take the time of the first row. A few steps of all rows in turns tell what a
step costs. Every row is scored on the same people, who choose settings and are never reported. The same command again goes on.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from lorasynth.evaluate.identity import interval
from lorasynth.gallery import Role
from lorasynth.pipeline.assembling import put_together
from lorasynth.pipeline.recipe import Recipe
from lorasynth.pipeline.through_base import critic_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.prior import DiffusionPrior
from lorasynth.prior.denoiser import Denoiser
from lorasynth.recipes import get_recipe
from lorasynth.refining import EndToEndConfig, end_to_end
from lorasynth.storage.files import write_json
from lorasynth.synthesizer import Synthesizer
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import Stem

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
from evidence.context import AT_ZERO, resemblance


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is changed of the training and of what it starts from."""

    through: dict[str, Any]  # fields of `RefineConfig`
    width: int | None = None  # of the prior's denoiser
    hidden_dim: int | None = None  # of the VAE's MLPs
    directions: int = 1  # times as many local ones in the VAE's stem


USUAL = "10 steps of drawing"
"""What the first trainings took. All other rows are compared with it."""
TEN, FOUR = {"drawing_steps": 10}, {"drawing_steps": 4}
ROWS = {
    USUAL: Row(through=TEN),
    "24 people a step": Row(through=TEN | {"people_a_step": 24}),
    "6 steps of drawing": Row(through={"drawing_steps": 6}),
    "4 steps of the prior": Row(through=TEN | {"num_inference_steps": 4}),
    "4 steps of drawing": Row(through=FOUR),
    "48 people a step": Row(through=TEN | {"people_a_step": 48}),
    "4 of drawing, identity weight 2": Row(through=FOUR | {"identity_weight": 2.0}),
    "4 of drawing, identity weight 4": Row(through=FOUR | {"identity_weight": 4.0}),
    "4 of drawing, prior of width 512": Row(through=FOUR, width=512),
    "4 of drawing, VAE of hidden width 1024": Row(through=FOUR, hidden_dim=1_024),
    "4 of drawing, twice the local directions": Row(through=FOUR, directions=2),
}
"""In the order in which they are run."""

PRIOR = "adalora"
SCORED = 64
_TIMED = (2, 10)  # steps of two short trainings, whose difference is that of steps alone
_ROUNDS = 2  # in which all rows are timed in turns, since other work on a machine changes CPU time, too


def config_of(recipe: Recipe, row: Row, steps: int) -> EndToEndConfig:
    """The recipe's training with changes. More people a step have a rate higher by the square root."""
    through = replace(recipe.end_to_end.through, **row.through)
    rate = (through.people_a_step / recipe.end_to_end.through.people_a_step) ** 0.5
    loop = replace(
        through.loop, steps=steps, warmup_steps=min(20, steps // 2), learning_rate=rate * through.loop.learning_rate,
        validate_every=steps, ema_decay=0.99,
    )  # fmt: skip
    return replace(recipe.end_to_end, through=replace(through, loop=loop))


def time_rows(work: Workspace, path: Path) -> dict[str, float]:
    """CPU seconds of a step of each row, without what comes before and after all steps: the fastest of rounds in turns."""
    if not path.exists():
        trained(work, ROWS[USUAL], config_of(work.fitted, ROWS[USUAL], 1), None)  # to warm up
        rounds = [{name: cpu_seconds_a_step(work, row) for name, row in ROWS.items()} for _ in range(_ROUNDS)]
        write_json(path, {name: min(times[name] for times in rounds) for name in ROWS})
    times: dict[str, float] = json.loads(path.read_text())
    return times


def cpu_seconds_a_step(work: Workspace, row: Row) -> float:
    """CPU seconds of one step, by the difference of two trainings that validate on two people."""
    took = []
    for steps in _TIMED:
        config = config_of(work.fitted, row, steps)
        began = time.process_time()
        trained(work, row, replace(config, through=replace(config.through, validation_people=2)), None)
        took.append(time.process_time() - began)
    return (took[1] - took[0]) / (_TIMED[1] - _TIMED[0])


def trained(work: Workspace, row: Row, config: EndToEndConfig, run_dir: Path | None) -> Any:
    """The fitted synthesizer, made larger as the row says, and trained end to end."""
    model, rows = put_together(work, "priors"), work.rows
    torch.manual_seed(0)
    enlarge(model, row)
    zoo = model.canonicalizer.view(rows.vectors).take(rows.train)
    end_to_end(work.require_subjects(), model, [PRIOR], critic_stage(work), zoo, config, run_dir=run_dir)
    return model


def enlarge(model: Synthesizer, row: Row) -> None:
    """Larger parts in place of those that the zoo has taught, in place. Like these, they add nothing to the linear start yet."""
    vae, prior = model.vae, cast(DiffusionPrior, model.priors[PRIOR])
    if row.width is not None:
        small = prior.denoiser
        prior.denoiser = Denoiser(
            small.latent_dim, small.embedding_dim, row.width, len(small.blocks), small.conditioning
        )
    if row.hidden_dim is not None:
        wide = LoRAVAE(vae.stem, vae.latent_dim, row.hidden_dim)
        vae.encoder.mlp, vae.decoder.mlp = wide.encoder.mlp, wide.decoder.mlp
    if row.directions > 1:
        local, across = [], []
        for table, columns in zip(
            vae.stem.local, vae.stem.across.split([len(t) for t in vae.stem.local], 1), strict=True
        ):
            # 1. Random directions of the module at right angles to all that are there.
            more = min((row.directions - 1) * len(table), table.shape[1] - len(table))
            both, _ = torch.linalg.qr(torch.cat([table, torch.randn(more, table.shape[1])]).T)
            local.append(torch.cat([table, both.T[len(table) :]]))
            # 2. No component looks along them yet.
            across.append(torch.cat([columns, torch.zeros(len(columns), more)], 1))
        vae.stem = Stem(local, torch.cat(across, 1))


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
    model, subjects = trained(work, ROWS[name], config, run_dir), work.require_subjects()
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
    """Rows as Markdown: similarity, and what each gains over the first row's, of the same people, with its interval."""
    usual = next(record for record in records if record["row"] == USUAL)
    lines = [
        "| Settings | CPU s a step | steps | people seen | similarity | more than the first row | second |",
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
    parser.add_argument("--steps", type=int, default=240, help="of the first row; others get as many as take as long")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table:
        found = [path for name in ROWS if (path := record_of(name, given.out)).exists()]
        if not record_of(USUAL, given.out).exists():
            parser.exit(2, f"{given.out}: expected the row of {USUAL}, got none; run it without --table\n")
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
