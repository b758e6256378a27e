"""Verbs for who makes a zoo: build, import, info."""

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    ForceBase,
    Json,
    RecipeName,
    Seed,
    ZooFolder,
    check_folder,
    check_json,
    emit,
    say,
    setup,
)

if TYPE_CHECKING:
    from lorasynth.lora.layout import Layout
    from lorasynth.zoo.finding import PassedOver
    from lorasynth.zoo.survey import Survey

AUTO = "auto"


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


def zoo_info(
    zoo: ZooFolder,
    measure: Annotated[
        int,
        typer.Option(
            min=0,
            max=256,
            help="Measure likeness and repeatability on this many held-out people; of an imported zoo, what it can teach, by the "
            "weights of this many LoRAs.",
        ),
    ] = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """What a zoo holds; with --measure, its two qualities: likeness and repeatability, or what an imported one can teach.

    Faults are those that lines and sizes show; `zoo verify` holds every byte against its checksum.

    Example: lorasynth zoo info runs/zoo --measure 32
    """
    check_json(json, zoo, force=force)
    setup(device)
    from lorasynth.zoo.store import Zoo
    from lorasynth.zoo.verify import verify

    opened = Zoo.open(zoo)
    record: dict = {
        "zoo": str(zoo),
        "items": len(opened),
        "splits": {s: sum(i.split == s for i in opened.items) for s in sorted({i.split for i in opened.items})},
        "modules": len(opened.layout.modules),
        "parameters": opened.layout.num_parameters,
        "layout": opened.layout.hash,
        "faults": [str(fault) for fault in verify(zoo, hashes=False).faults],
        "recipe": opened.recipe,
    }
    if measure and "world" not in opened.recipe:
        from lorasynth.zoo.measuring import measure_weights

        record["quality"] = measure_weights(opened, measure)
        if said := record["quality"]["verdict"]:
            say(said)
    elif measure:
        from lorasynth.evaluate.zoo_quality import zoo_quality

        record["quality"] = zoo_quality(opened, measure, report=say)
    emit(record, json)


def zoo_import(
    out: Annotated[
        Path, typer.Option("--out", help="The zoo's folder; the same again goes on and takes in what is new.")
    ],
    licence: Annotated[str, typer.Option(help="What the LoRAs may be used for; kept with every item.")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="LoRA files, PEFT folders, folders of them, glob patterns.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="What all are brought to: auto (what most of the files can give), a preset, the modules of a LoRA "
            "(its file), or a world's name."
        ),
    ] = AUTO,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Rank that all are brought to; the least that keeps 0.95 of ‖ΔW‖² by default."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSONL or Parquet with columns file, person, face (embedding, photo or folder); else names side by side."
        ),
    ] = None,
    w2w: Annotated[
        Path | None,
        typer.Option(help="Folder of the weights2weights release, in place of paths; the table has row and person."),
    ] = None,
    embeddings: Annotated[Path | None, typer.Option(help="With --w2w: a .npy matrix, a face embedding a row.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="What embeds photos, and what embeddings were made with: a world's name, folder or file of ONNX face models, "
            "aligned:FILE, clip:FOLDER, dinov2:FOLDER or a hub id; see docs/reference/real-faces.md."
        ),
    ] = None,
    unet_only: Annotated[
        bool, typer.Option("--unet-only", help="Leave text encoders' parts out: what an import does in any case.")
    ] = True,
    force_base: ForceBase = None,
    allow_zero: Annotated[bool, typer.Option("--allow-zero", help="Take in LoRAs that do nothing, too.")] = False,
    validation: Annotated[
        float | None,
        typer.Option(help="Part of the people to choose settings by; 0.05 by default, more of a few people."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Part of the people that nothing is fitted on; as --validation by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken and lost, and take in nothing.")
    ] = False,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Take LoRAs of any format and rank into a zoo; bad ones are set aside with the reason, in import.jsonl.

    What will be taken and lost is said before it begins. `train all imported` learns from any such zoo.

    Example: lorasynth zoo import loras/ --out runs/zoo --table people.csv --licence CC-BY-4.0
    """
    given = (Path(path) for path in paths or [])
    check_json(json, out, *(path for path in (*given, table, w2w, embeddings) if path is not None), force=force)
    check_folder(out)
    setup(device)
    from lorasynth.encoders import describe
    from lorasynth.errors import UsageError
    from lorasynth.opening import open_encoder
    from lorasynth.zoo import w2w as release
    from lorasynth.zoo.candidates import candidates_of
    from lorasynth.zoo.importer import KINDS, REPORT_NAME, import_zoo
    from lorasynth.zoo.pairs import find_loras, look_alikes, pair_by_name, pair_by_table, passed_over

    others: list[PassedOver] = []
    seen: Survey | None = None
    opened = None if encoder is None else open_encoder(encoder)
    if opened is not None:
        say(describe(opened.record))
    if w2w is not None:
        if paths or table is None or embeddings is None:
            labels = f". {release.HOW_TO_READ_LABELS}" if (w2w / release.LABELS_NAME).exists() and table is None else ""
            raise UsageError(f"expected --w2w with --table and --embeddings and no paths; give all three{labels}")
        candidates, chosen = release.candidates_of(w2w, table, embeddings, report=say)
    else:
        if not paths or embeddings is not None:
            raise UsageError("expected paths of LoRAs, or --w2w with --embeddings; give one of the two")
        loras = find_loras(paths)
        entries = pair_by_name(loras) if table is None else pair_by_table(loras, table, say)
        used = [entry.lora for entry in entries] + [face for entry in entries for face in entry.faces]
        others = passed_over(paths, [*used, *([table] if table else [])])
        for names in look_alikes(entry.person for entry in entries):
            say(f"are taken for different people, and look alike: {', '.join(names)}")
        chosen, seen = _chosen(
            [entry.lora for entry in entries], others, _asked(layout, rank, out, force_base), force_base
        )
        candidates = candidates_of(entries, chosen, opened, unet_only=unet_only, base=force_base)
    looked = None if seen is None else seen.to_dict()
    if dry_run:
        emit({"zoo": str(out), "layout": chosen.hash, "candidates": len(candidates), "survey": looked}, json)
        return
    record_of_encoder = None if opened is None else opened.record
    few = len({candidate.person for candidate in candidates})
    parts = _parts(out, few, validation, held_out)
    zoo, outcomes = import_zoo(
        candidates, out, chosen, licence=licence, encoder=record_of_encoder, validation=parts[0], held_out=parts[1],
        allow_zero=allow_zero, others=others, report=say,
    )  # fmt: skip
    taken = [o for o in outcomes if o.outcome == "imported"]
    if trimmed := [o for o in taken if o.relative_error**2 > 0.05]:
        say(
            f"{len(trimmed)} of {len(taken)} LoRAs lost more than 0.05 of ‖ΔW‖²: relative_error and left_out in import.jsonl"
        )
    refused = [{"file": o.file, "reason": o.reason, "code": o.code} for o in outcomes if o.outcome == "refused"]
    warned = [{"file": o.file, "warnings": o.warnings} for o in outcomes if o.warnings]
    record = {
        "zoo": str(out), "items": len(zoo), "layout": chosen.hash,
        **{kind: sum(o.outcome == kind for o in outcomes) for kind in KINDS},
        "largest_relative_error": max((o.relative_error for o in outcomes), default=0.0),
        "lost_by_modules": sum(o.left_out for o in taken) / max(len(taken), 1),
        "survey": looked, "refused_by_code": dict(Counter(r["code"] for r in refused).most_common()),
        "first_refused": refused[:10], "warned": len(warned), "first_warned": warned[:10], "encoder": record_of_encoder,
        "report": str(out / REPORT_NAME),
    }  # fmt: skip
    emit(record, json)


def _chosen(
    loras: "list[Path]", others: "list[PassedOver]", asked: "tuple[Layout | None, int | None]", base: str | None
) -> "tuple[Layout, Survey | None]":
    """The layout that all are brought to, and what was seen of the files; says what will be taken and lost."""
    from lorasynth.errors import ZooError
    from lorasynth.storage.faults import shown
    from lorasynth.zoo.survey import of_rank, survey

    layout, rank = asked
    try:
        seen = survey(loras, layout, rank, base=base)
    except ZooError as error:
        if layout is None or rank is None:
            named = next((f"; {shown(other.file)}: {other.reason}" for other in others if other.refused), "")
            raise ZooError(f"{error}{named}") from None
        say(str(error))  # nothing is left to choose: the report will say so of each
        return of_rank(layout, rank), None
    for line in seen.lines():
        say(line)
    return seen.layout, seen


def _asked(name: str, rank: int | None, out: Path, base: str | None) -> "tuple[Layout | None, int | None]":
    """The layout and the rank that are asked for; None for what is to be chosen. A zoo that is there has chosen."""
    from lorasynth.errors import UsageError
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.layout import Layout
    from lorasynth.lora.presets import PRESETS
    from lorasynth.worlds.world import WORLDS, get_world
    from lorasynth.zoo.store import Zoo

    there = Zoo.open(out).layout if (out / "zoo.json").exists() else None
    rank_there = None if there is None else max(m.rank for m in there.modules)
    rank = rank or rank_there
    if name == AUTO:
        return there, rank
    if name in PRESETS:
        return Layout.preset(name), rank
    if name in WORLDS:
        return get_world(name).base.layout(1), rank
    if Path(name).exists():
        return LoRA.load(name, unet_only=True, base=base).layout, rank
    raise UsageError(
        f"expected --layout with a preset among {sorted(PRESETS)}, a LoRA file, a world among {sorted(WORLDS)} or auto, got "
        f"{name!r}"
    )


def _parts(out: Path, people: int, validation: float | None, held_out: float | None) -> tuple[float, float]:
    """The parts of the people for validation and held out: the zoo's, else so many that some ten are in each."""
    from lorasynth.zoo.store import Zoo

    recipe = Zoo.open(out).recipe if (out / "zoo.json").exists() else {}
    usual = min(0.25, max(0.05, 10 / max(people, 1)))
    validation = recipe.get("validation", usual) if validation is None else validation
    return validation, recipe.get("held_out", min(validation, usual)) if held_out is None else held_out
