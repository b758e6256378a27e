"""The verb that makes a zoo: build."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    Json,
    RecipeName,
    Seed,
    check_json,
    check_zoo,
    emit,
    say,
    setup,
)
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions
from lorasynth.cli.zoo_options import TrainingOptions

if TYPE_CHECKING:
    from lorasynth.zoo.preservation import Preservation

PRIVATE = "private"


@expanded
def zoo_build(
    recipe: RecipeName,
    photos: PhotoOptions,
    training: TrainingOptions,
    out: Annotated[Path, typer.Option("--out", help="The zoo's folder; the same again resumes.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Processes, one a core; default 1, or all that a cluster has room for."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to work on: its address (ray://HOST:10001, HOST:6379, auto), or local for one of this machine."
        ),
    ] = None,
    people: Annotated[
        int | None,
        typer.Option(
            "--people",
            "--subjects",
            min=0,
            help="How many people get a LoRA, instead of the recipe's number. 0: the pilot's alone; photos teach the rest.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option(help="With --data: what the LoRAs may be used for; kept with every item.")
    ] = PRIVATE,
    class_prompt: Annotated[
        str | None,
        typer.Option(help="With --data: prior preservation, on what the base draws of others: 'a photo of a person'."),
    ] = None,
    num_class_images: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="With --class-prompt: how many pictures; 100 by default.")
    ] = None,
    prior_loss_weight: Annotated[
        float | None, typer.Option(min=0.0, help="With --class-prompt: of their loss; 1 by default.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Train a zoo of LoRAs, many at once, resumable: of people of a drawn world or, with --data, of photographs.

    Any number of these commands may share a folder, on any number of machines: docs/results/scale.md.

    Example: lorasynth zoo build sd15 --base BASE --data people/ --encoder models/buffalo_l --out runs/zoo
    """
    check_json(json, out, force=force)
    check_zoo(out)
    setup("cpu" if cluster else device)  # the cluster's machines have the device
    from dataclasses import replace

    from lorasynth.errors import UsageError
    from lorasynth.recipes import get_recipe, get_zoo_config
    from lorasynth.zoo.config import MEASURED

    found, config = get_recipe(recipe), get_zoo_config(recipe)
    if people == 1:
        raise UsageError("expected --subjects 0 (the pilot's alone) or at least 2, got 1; give another number")
    if photos.data is None and found.world is None:
        raise UsageError(
            f"expected --data with photographs and --encoder for recipe {recipe!r}, got neither; give both"
        )
    if photos.data is None and licence != PRIVATE:
        raise UsageError("expected --licence with --data, got it alone; leave it out, or name your photographs")
    source = photos.source(found.base, licence=licence, family=found.family)
    config = training.applied(config, found.family)
    config = replace(
        config, seed=seed, people=config.people if people is None else people,
        preservation=_preservation(photos.data, class_prompt, num_class_images, prior_loss_weight),
    )  # fmt: skip
    if training.bank is None and (out / "zoo.json").exists():  # a zoo keeps the number that it was begun with
        config = replace(config, bank=MEASURED)
    if cluster is not None:
        from lorasynth.zoo.cluster import build_zoo_on_cluster

        items, layout = build_zoo_on_cluster(
            config, out, cluster, photos=source, tasks=workers, device=device, report=say
        )
    else:
        from lorasynth.zoo.build import build_zoo_with_workers

        zoo = build_zoo_with_workers(config, str(out), workers or 1, photos=source, report=say)
        items, layout = len(zoo), zoo.layout.hash
    emit({"zoo": str(out), "items": items, "layout": layout}, json)


def _preservation(
    data: str | None, class_prompt: str | None, num_class_images: int | None, prior_loss_weight: float | None
) -> "Preservation | None":
    """Prior preservation, if a class prompt asks for it."""
    from lorasynth.errors import UsageError
    from lorasynth.zoo.preservation import Preservation

    if class_prompt is None:
        for option, value in (("num-class-images", num_class_images), ("prior-loss-weight", prior_loss_weight)):
            if value is not None:
                raise UsageError(f"expected --{option} with --class-prompt, got it alone; give a class prompt")
        return None
    if data is None:
        raise UsageError("expected --class-prompt with --data, got it alone; leave it out, or name your photographs")
    if not class_prompt.strip():
        raise UsageError(f"expected a class prompt such as 'a photo of a person', got {class_prompt!r:.80}")
    given: dict[str, Any] = {"num_class_images": num_class_images, "prior_loss_weight": prior_loss_weight}
    return Preservation(class_prompt=class_prompt, **{k: v for k, v in given.items() if v is not None})
