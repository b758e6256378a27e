"""The verb that makes a zoo: build."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    Json,
    RecipeName,
    Seed,
    check_folder,
    check_json,
    emit,
    say,
    setup,
)


class Masks(StrEnum):
    """What is done with masks."""

    use = "use"
    ignore = "ignore"


class Precision(StrEnum):
    """Of a base's weights."""

    fp32 = "fp32"
    bf16 = "bf16"


def zoo_build(
    recipe: RecipeName,
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
            "--people", "--subjects", min=2, help="How many people get a LoRA, instead of the recipe's number."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Photographs to make LoRAs of: a folder, .zip or hf://datasets/OWNER/NAME; docs/your-pictures.md."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="With --data: the base, a diffusers folder, .safetensors checkpoint, hub id or world."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="With --data: what embeds photos; docs/reference/real-faces.md.")
    ] = None,
    instance_prompt: Annotated[
        str | None,
        typer.Option(help="With --data: the caption of photos that have none; 'a photo of sks person' by default."),
    ] = None,
    masks: Annotated[Masks, typer.Option(help="With --data: whether masks say where the loss looks.")] = Masks.use,
    licence: Annotated[
        str, typer.Option(help="With --data: what the LoRAs may be used for; kept with every item.")
    ] = "private",
    rank: Annotated[int | None, typer.Option(min=1, max=256, help="Of the LoRAs, instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each LoRA's training, instead of the recipe's.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=8, max=4_096, help="With --data: pixels a side; default those of the base.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="With --data: of the base's weights.")] = Precision.fp32,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="With --data: less memory, about a third slower.")
    ] = False,
    bank: Annotated[
        str | None,
        typer.Option(
            help="People trained at once, instead of the recipe's number; auto: what is fastest here, measured once, when the "
            "zoo is begun. Another number makes LoRAs that differ in their last digits."
        ),
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
    check_folder(out)
    setup("cpu" if cluster else device)  # the cluster's machines have the device
    from dataclasses import replace

    from lorasynth.errors import UsageError
    from lorasynth.recipes import get_recipe, get_zoo_config
    from lorasynth.recipes.recipe import BaseRecipe
    from lorasynth.zoo.materials import FromPhotos

    found, config = get_recipe(recipe), get_zoo_config(recipe)
    config = replace(
        config, seed=seed, people=people or config.people, rank=rank or config.rank,
        adapt=replace(config.adapt, steps=steps or config.adapt.steps),
    )  # fmt: skip
    photos = None
    if data is not None and encoder is not None:
        photos = FromPhotos(
            data=data, base=base or (found.base if isinstance(found, BaseRecipe) else config.world), encoder=encoder,
            licence=licence, family=found.family if isinstance(found, BaseRecipe) else config.world,
            instance_prompt=instance_prompt, masks=masks == Masks.use, resolution=resolution,
            precision=precision.value, gradient_checkpointing=gradient_checkpointing,
        )  # fmt: skip
    elif data is not None or isinstance(found, BaseRecipe):
        got = "no --encoder" if data is not None else "neither"
        raise UsageError(f"expected --data with photographs and --encoder for recipe {recipe!r}, got {got}; give both")
    else:
        of_photos: dict[str, tuple[object, object]] = {  # option -> what is given, and what stands for nothing given
            "--base": (base, None), "--encoder": (encoder, None), "--instance-prompt": (instance_prompt, None),
            "--masks": (masks, Masks.use), "--licence": (licence, "private"), "--resolution": (resolution, None),
            "--precision": (precision, Precision.fp32), "--gradient-checkpointing": (gradient_checkpointing, False),
        }  # fmt: skip
        if given := [option for option, (value, usual) in of_photos.items() if value != usual]:
            raise UsageError(f"expected {given[0]} with --data, got it alone; leave it out, or name your photographs")
    if bank is not None or (out / "zoo.json").exists():  # a zoo keeps the number that it was begun with
        config = replace(config, bank=_bank(bank or "auto"))
    if cluster is not None:
        from lorasynth.zoo.cluster import build_zoo_on_cluster

        items, layout = build_zoo_on_cluster(
            config, out, cluster, photos=photos, tasks=workers, device=device, report=say
        )
    else:
        from lorasynth.zoo.build import build_zoo_with_workers

        zoo = build_zoo_with_workers(config, str(out), workers or 1, photos=photos, report=say)
        items, layout = len(zoo), zoo.layout.hash
    emit({"zoo": str(out), "items": items, "layout": layout}, json)


def _bank(text: str) -> int:
    from lorasynth.errors import UsageError
    from lorasynth.zoo.config import MEASURED

    if text == "auto":
        return MEASURED
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise UsageError(f"expected --bank auto or a number from 1 to 100000, got {text!r}")
    return int(text)
