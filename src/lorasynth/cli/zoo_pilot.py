"""The verb that finds a zoo's settings for a base: pilot."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, RecipeName, Seed, check_folder, check_json, emit, say, setup
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions
from lorasynth.cli.zoo_options import TrainingOptions

ALL = "learning_rate,targets,adam_epsilon,steps,rank"


@expanded
def zoo_pilot(
    recipe: RecipeName,
    photos: PhotoOptions,
    training: TrainingOptions,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for pilot.json and settings.json; the same again goes on.")
    ],
    subjects: Annotated[int, typer.Option(min=2, max=12, help="How many pilot subjects, at most.")] = 12,
    factors: Annotated[str, typer.Option(help="Which settings to look at, in this order, with commas between.")] = ALL,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Find the settings of a zoo for your base: learning rate, modules, Adam's epsilon, steps and rank, on a few subjects.

    Starts from the recipe's own settings, or from those given here, and changes one after the other. Each candidate is trained
    twice. Then build the zoo with `zoo build RECIPE --settings OUT/settings.json`.

    Example: lorasynth zoo pilot sd15 --base BASE --data people/ --encoder models/buffalo_l --out runs/pilot
    """
    check_json(json, out, force=force)
    check_folder(out)
    setup(device)
    from dataclasses import replace

    from lorasynth.errors import UsageError
    from lorasynth.evaluate.pilot import PilotConfig, open_pilot
    from lorasynth.evaluate.pilot_search import require_factors
    from lorasynth.recipes import get_recipe, get_zoo_config

    looked_at = require_factors(factors)
    found = get_recipe(recipe)
    zoo = replace(training.applied(get_zoo_config(recipe), found.family), seed=seed)
    if photos.data is None and found.world is None:
        raise UsageError(
            f"expected --data with photographs and --encoder for recipe {recipe!r}, got neither; give both"
        )
    source = photos.source(found.base, family=found.family)
    config = PilotConfig(zoo=zoo, subjects=subjects, factors=looked_at)
    record = open_pilot(config, source, out, report=say).run()
    if not record["learned"]:
        say(
            "no candidate draws subjects better than the base alone; look at photos, encoder and base before a zoo is built"
        )
    emit(
        {"out": str(out), **{name: record[name] for name in ("learned", "chosen", "base_similarity", "candidates")}},
        json,
    )
