"""A drawn world from nothing: its own models, a zoo, a synthesizer, its scores. That of the shipped model by default.

    make reproduce            # or: python -m lorasynth.recipes.reproduce --run-dir out/reproduce/portraits128
    make reproduce RECIPE=portraits
    python -m lorasynth.recipes.reproduce --recipe emblems --run-dir out/emblems
    python -m lorasynth.recipes.reproduce --recipe portraits128_gpu --run-dir out/gpu --device cuda --pack out/kept
    make reproduce-tiny       # all of it in minutes: every stage for a few steps, and a useless model

Minutes on a machine of two CPU cores, added up from single stages, most of them beside other work. The base's, and end to end of
portraits128, are scaled. Neither recipe was ever run in one go.

    stage                        portraits128   portraits
    encoder                      that of portraits     10
    second recogniser                      38           8
    decoder                                61          20
    appearance net                         30
    reader                                 47
    base                                  115          75
    zoo                                    25          45
    VAE and priors                          3           5
    critic                                 25           5
    priors on photos and drawings                      65
    end to end                             54          50
    settings                               12           5
    evaluation                             25          20
    together                           7 h 15         5 h

Each stage is skipped where its result is there. Decoder, base, zoo, VAE and priors resume inside. docs/results/figures.md says
what to expect. The shipped encoder, recognisers and bases saw earlier portraits in their training (see their cards).

With LORASYNTH_ASSETS=RUN a command that is told the name of the world takes the new models, the synthesizer among them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from lorasynth.devices import use_device
from lorasynth.errors import LorasynthError
from lorasynth.recipes import get_recipe
from lorasynth.recipes.packing import pack
from lorasynth.recipes.world_models import WORLD_CONFIGS, make_base, make_world
from lorasynth.worlds.world import get_domain


def main() -> None:
    """Everything: world, zoo, synthesizer, scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("out/reproduce"))
    parser.add_argument("--recipe", choices=sorted(WORLD_CONFIGS), default="portraits128")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="keep what is worth keeping here, after each stage")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        use_device(arguments.device)
        torch.set_num_threads(1)
        _make(arguments)
    except LorasynthError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _make(arguments: argparse.Namespace) -> None:
    recipe, config = arguments.recipe, WORLD_CONFIGS[arguments.recipe]()
    domain = get_domain(get_recipe(recipe).family)
    if arguments.base:
        make_base(domain, arguments.base, config)
        return
    run: Path = arguments.run_dir
    folder = run / domain.name
    base_command = ["-m", "lorasynth.recipes.reproduce", "--recipe", recipe, "--base", str(folder)]
    make_world(domain, folder, config, base_command)
    keep = partial(pack, run, arguments.pack)
    keep()
    environment = {**os.environ, "LORASYNTH_ASSETS": str(run.resolve())}

    def lorasynth(*command: str) -> None:
        on = ["--device", arguments.device]
        subprocess.run([sys.executable, "-m", "lorasynth", *command, *on], check=True, env=environment)
        keep()

    zoo, fit, scores = str(run / "zoo"), run / "fit", run / "scores.json"
    model = str(fit / "synthesizer")
    lorasynth("zoo", "build", recipe, "--out", zoo, "--workers", "2")
    if not (fit / "synthesizer" / "config.json").exists():
        lorasynth("train", "all", recipe, "--zoo", zoo, "--out", str(fit), "--workers", "2")
    # The world's name stands for its synthesizer, which lies beside its models.
    beside, part = folder / "synthesizer", folder / "synthesizer.part"
    if not beside.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(model, part)
        part.rename(beside)
    if not scores.exists():
        of_whom = ["--people", str(config.evaluated_people), "--trained-on", zoo]
        pages = ["--grid", str(run / "scores.png"), "--html", str(run / "scores.html"), "--json", str(scores)]
        lorasynth("evaluate", model, *of_whom, *pages, "--force")


if __name__ == "__main__":
    main()
