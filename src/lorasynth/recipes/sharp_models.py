"""The models of a world of large pictures, stage by stage, so that long trainings run beside other work.

    python -m lorasynth.recipes.sharp_models vae --run-dir out/portraits128       # minutes: the encoder, in closed form
    python -m lorasynth.recipes.sharp_models decoder --run-dir out/portraits128   # this and the next side by side
    python -m lorasynth.recipes.sharp_models base --run-dir out/portraits128
    python -m lorasynth.recipes.sharp_models appearance --run-dir out/portraits128  # after vae: what the encoder does not see
    python -m lorasynth.recipes.sharp_models reader --run-dir out/portraits128    # at any time
    python -m lorasynth.recipes.sharp_models report --run-dir out/portraits128    # what the VAE keeps, after decoder and reader
    python -m lorasynth.recipes.sharp_models look --run-dir out/portraits128      # seconds: pictures by the base

`lorasynth.recipes.reproduce --recipe portraits128` calls the same stages one after the other. Each is skipped where its result is
there, and goes on from its checkpoints. Hardware and hours: dev/LOG.md.
"""

import argparse
from pathlib import Path

import torch

from lorasynth.devices import use_device
from lorasynth.errors import LorasynthError
from lorasynth.recipes import get_recipe
from lorasynth.recipes.sharp_stages import STAGES
from lorasynth.recipes.world_models import WORLD_CONFIGS
from lorasynth.worlds.world import get_domain


def main() -> None:
    """One stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(STAGES))
    sharp = {name: config for name, make in WORLD_CONFIGS.items() if (config := make().sharp)}
    parser.add_argument("--recipe", choices=sorted(sharp), default="portraits128")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    domain = get_domain(get_recipe(arguments.recipe).family)
    try:
        use_device(arguments.device)
        STAGES[arguments.stage](domain, arguments.run_dir / domain.name, sharp[arguments.recipe])
    except LorasynthError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
