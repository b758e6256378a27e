"""Does early stopping pay on a folder of photographs? LoRAs of fixed lengths against LoRAs that stop: similarity and CPU seconds.

    python benchmarks/early_stopping.py --out out/early-stopping     # about 8 minutes of a core

Drawn people are exported as PNG files and go the way of photographs. All LoRAs begin at one pilot's mean, and are held against
photos that serve nothing else. Stopping looks at photos for stopping.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from both_ways import WORLD

from lorasynth.base import render
from lorasynth.drawn.export import export_people
from lorasynth.evaluate.identity import embed_pictures, interval, similarity
from lorasynth.recipes import get_zoo_config
from lorasynth.subjects import SIMILARITY
from lorasynth.subjects.source import PhotoSource
from lorasynth.worlds.world import get_domain
from lorasynth.zoo.adapt import train_people
from lorasynth.zoo.early_stopping import Stopping, finetune_with_early_stopping, held_out_loss
from lorasynth.zoo.initialisation import learn_init
from lorasynth.zoo.materials import open_photo_material

PEOPLE, PHOTOS = 44, 32  # exported; three quarters of the people are trained
EVERY = 5
LENGTHS = (10, 20, 45)  # of fixed steps; the last is the recipe's
LEAST_GAINS = (1e-3, 3e-4, 0.0)  # of the held-out loss, in five steps


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    if not (out / "people").exists():
        export_people(get_domain(WORLD), PEOPLE, PHOTOS, out / "people", size=64)
    source = PhotoSource(data=str(out / "people"), base=WORLD, encoder=WORLD, family=WORLD)
    config = replace(get_zoo_config(WORLD), pilot_people=12, pilot_rounds=1)
    material = open_photo_material(source, config, out / "zoo")
    base, layout, subjects = material.base, material.base.layout(config.rank), material.subjects
    people = material.persons[:32]
    photos, held_out, centroids = material.photos(people), material.stopping(people), subjects.centroids(people)
    init = learn_init(base, layout, material.pilot, config)
    score = held_out_loss(base, layout, held_out)

    def row(name: str, train: Callable[[], tuple[torch.Tensor, float]]) -> None:
        start = time.process_time()
        vectors, steps = train()
        seconds = (time.process_time() - start) / len(people)
        pictures = render(base, list(subjects.prompts[:2]), layout, vectors, guidance_scale=1.0)
        found = interval(similarity(embed_pictures(subjects.recogniser(SIMILARITY), pictures), centroids))
        print(
            f"| {name} | {steps:.1f} | {seconds:.2f} | {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f}) |",
            flush=True,
        )

    def fixed(length: int) -> tuple[torch.Tensor, float]:
        adapt = replace(config.adapt, steps=length)
        return train_people(base, layout, init, photos, adapt, bank_size=config.bank), float(length)

    def stopped(least: float) -> tuple[torch.Tensor, float]:
        stopping, starts = Stopping(every=EVERY, min_gain=least), init.expand(len(people), -1)
        done = finetune_with_early_stopping(
            base, layout, starts, photos, config.adapt, stopping, score, slots=config.places
        )
        return done.vectors, done.steps.double().mean().item()

    print("| LoRAs | steps, mean | CPU seconds each | similarity |\n|---|---|---|---|")
    for length in LENGTHS:
        row(f"{length} steps", lambda length=length: fixed(length))  # type: ignore[misc]
    for least in LEAST_GAINS:
        row(f"stop below a gain of {least:g}", lambda least=least: stopped(least))  # type: ignore[misc]


if __name__ == "__main__":
    main()
