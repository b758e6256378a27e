"""A drawn world from nothing: its own models, a zoo, a synthesizer, its scores. The embedded default unless another is named.

    make reproduce            # or: python -m lorasynth.recipes.reproduce --run-dir out/reproduce
    python -m lorasynth.recipes.reproduce --recipe emblems --run-dir out/emblems
    make reproduce-tiny       # all of it in minutes: every stage for a few steps; what comes out is of no use

Two CPU cores, about five hours (added up from single stages, some of them scaled; never run in one go): encoder
10 min, second recogniser 8 min, decoder 20 min, base 75 min (on both cores), zoo of 2,128 people 45 min (on both cores), VAE and
priors 5 min, the critic 5 min, training the priors through the base 45 min on photos and 20 min on
what they draw (one on each core), end to end with the VAE 50 min (one core), choosing their settings 5 min, evaluation 20 min.
Each stage is skipped where its result is there; decoder, base, zoo, VAE and priors resume inside. What to expect:
docs/figures.md.

The shipped encoder, recogniser and base saw earlier portraits for a part or all of their training; see their cards.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lorasynth.recipes import get_world_recipe
from lorasynth.recipes.world_models import WorldConfig, make_base, make_world, sharp, sharp_tiny, small, tiny
from lorasynth.worlds.world import get_domain

WORLDS: dict[str, Callable[[], WorldConfig]] = {
    "portraits": WorldConfig, "portraits_tiny": tiny,
    "portraits128": sharp, "portraits128_tiny": sharp_tiny,
    "emblems": small, "emblems_tiny": tiny,
    "brushes": partial(small, base_steps=4_000), "brushes_tiny": tiny,
}  # fmt: skip
"""How the models of a world are made, by the recipe that follows."""


def main() -> None:
    """Everything: world, zoo, synthesizer, scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("out/reproduce"))
    parser.add_argument("--recipe", choices=sorted(WORLDS), default="portraits")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    recipe, config = arguments.recipe, WORLDS[arguments.recipe]()
    domain = get_domain(get_world_recipe(recipe).zoo.world)
    torch.set_num_threads(1)
    if arguments.base:
        make_base(domain, arguments.base, config)
        return
    run: Path = arguments.run_dir
    folder = run / domain.name
    base_command = ["-m", "lorasynth.recipes.reproduce", "--recipe", recipe, "--base", str(folder)]
    make_world(domain, folder, config, base_command)
    environment = {**os.environ, "LORASYNTH_ASSETS": str(run.resolve())}

    def lorasynth(*command: str) -> None:
        subprocess.run([sys.executable, "-m", "lorasynth", *command], check=True, env=environment)

    zoo, fit, scores = str(run / "zoo"), run / "fit", run / "scores.json"
    model = str(fit / "synthesizer")
    lorasynth("zoo", "build", recipe, "--out", zoo, "--workers", "2")
    if not (fit / "synthesizer" / "config.json").exists():
        lorasynth("train", "all", recipe, "--zoo", zoo, "--out", str(fit), "--workers", "2")
    if not scores.exists():
        of_whom = ["--people", str(config.evaluated_people), "--trained-on", zoo]
        pages = ["--grid", str(run / "scores.png"), "--html", str(run / "scores.html"), "--json", str(scores)]
        lorasynth("evaluate", model, *of_whom, *pages, "--force")


if __name__ == "__main__":
    main()
