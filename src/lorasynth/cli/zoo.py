"""Verbs for who keeps a zoo: build, import, info, verify, repair, resize, forget, export, nearest."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    ForceBase,
    Format,
    Json,
    RecipeName,
    Seed,
    UnetOnly,
    check_json,
    emit,
    say,
    setup,
)
from lorasynth.errors import ZooError

ZooFolder = Annotated[Path, typer.Argument(help="The zoo's folder.")]


def zoo_build(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", help="The zoo's folder; the same again resumes.")],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; one a core.")] = 1,
    people: Annotated[int | None, typer.Option(min=2, help="How many people, instead of the recipe's.")] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Train a zoo of LoRAs, many at once, resumable.

    Example: lorasynth zoo build portraits --out runs/zoo --workers 2
    """
    check_json(json)
    setup(device)
    from dataclasses import replace

    from lorasynth.recipes import get_world_recipe
    from lorasynth.zoo.build import build_zoo_with_workers

    config = get_world_recipe(recipe).zoo
    config = replace(config, seed=seed, people=config.people if people is None else people)
    zoo = build_zoo_with_workers(config, str(out), workers, report=say)
    emit({"zoo": str(out), "items": len(zoo), "layout": zoo.layout.hash}, json)


def zoo_info(
    zoo: ZooFolder,
    measure: Annotated[
        int, typer.Option(min=0, max=256, help="Measure likeness and repeatability on this many held-out people.")
    ] = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """What a zoo holds; with --measure, its two qualities: likeness and repeatability.

    Example: lorasynth zoo info runs/zoo --measure 32
    """
    check_json(json)
    setup(device)
    from lorasynth.zoo.store import Zoo

    opened = Zoo.open(zoo)
    record: dict = {
        "zoo": str(zoo),
        "items": len(opened),
        "splits": {s: sum(i.split == s for i in opened.items) for s in sorted({i.split for i in opened.items})},
        "modules": len(opened.layout.modules),
        "parameters": opened.layout.num_parameters,
        "layout": opened.layout.hash,
        "faults": opened.verify(),
        "recipe": opened.recipe,
    }
    if measure:
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
    layout: Annotated[str, typer.Option(help="Preset that all are brought to, or a world's name.")] = "sd15-attn",
    rank: Annotated[int, typer.Option(min=1, max=1024, help="Rank that all are brought to.")] = 1,
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
            "aligned:FILE, clip:FOLDER, dinov2:FOLDER or a hub id; see docs/real-faces.md."
        ),
    ] = None,
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    allow_zero: Annotated[bool, typer.Option("--allow-zero", help="Take in LoRAs that do nothing, too.")] = False,
    validation: Annotated[float, typer.Option(help="Part of the people to choose settings by.")] = 0.05,
    held_out: Annotated[float, typer.Option(help="Part of the people that nothing is fitted on.")] = 0.05,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Take LoRAs of any format and rank into a zoo; bad ones are set aside with the reason, in import.jsonl.

    Example: lorasynth zoo import loras/ --out runs/zoo --layout sd15-attn --rank 4 --table people.csv --licence CC-BY-4.0
    """
    check_json(json)
    setup(device)
    from lorasynth.encoders import describe, open_encoder
    from lorasynth.errors import UsageError
    from lorasynth.lora.layout import Layout
    from lorasynth.lora.presets import PRESETS
    from lorasynth.worlds.world import get_world
    from lorasynth.zoo import w2w as release
    from lorasynth.zoo.candidates import candidates_of
    from lorasynth.zoo.importer import KINDS, REPORT_NAME, import_zoo
    from lorasynth.zoo.pairs import find_loras, pair_by_name, pair_by_table

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
        entries = pair_by_name(loras) if table is None else pair_by_table(loras, table)
        chosen = Layout.preset(layout, rank) if layout in PRESETS else get_world(layout).layout(rank)
        candidates = candidates_of(entries, chosen, opened, unet_only=unet_only, base=force_base)
    record_of_encoder = None if opened is None else opened.record
    zoo, outcomes = import_zoo(
        candidates, out, chosen, licence=licence, encoder=record_of_encoder, validation=validation, held_out=held_out,
        allow_zero=allow_zero, report=say,
    )  # fmt: skip
    refused = [{"file": o.file, "reason": o.reason, "code": o.code} for o in outcomes if o.outcome == "refused"]
    warned = [{"file": o.file, "warnings": o.warnings} for o in outcomes if o.warnings]
    record = {
        "zoo": str(out), "items": len(zoo), "layout": chosen.hash,
        **{kind: sum(o.outcome == kind for o in outcomes) for kind in KINDS},
        "largest_relative_error": max((o.relative_error for o in outcomes), default=0.0),
        "first_refused": refused[:10], "warned": len(warned), "first_warned": warned[:10], "encoder": record_of_encoder,
        "report": str(out / REPORT_NAME),
    }  # fmt: skip
    emit(record, json)


def zoo_resize(
    zoo: Annotated[Path, typer.Argument(help="The zoo's folder; it is not changed.")],
    rank: Annotated[int, typer.Option(min=1, max=1024, help="Rank that all LoRAs are brought to.")],
    out: Annotated[Path, typer.Option("--out", help="The new zoo's folder; the same again goes on.")],
    json: Json = None,
) -> None:
    """Bring a zoo to another rank, by the leading singular directions of each update, and say what that cost.

    relative_error is ``‖ΔW - ΔW'‖ / ‖ΔW‖``: 0 is exact, as for any rank that is not lower.

    Example: lorasynth zoo resize runs/zoo --rank 1 --out runs/zoo-rank-1
    """
    check_json(json)
    setup()
    from lorasynth.zoo.resize import resize_zoo
    from lorasynth.zoo.store import Zoo

    resized, error = resize_zoo(Zoo.open(zoo), out, rank, report=say)
    emit(
        {"zoo": str(out), "items": len(resized), "layout": resized.layout.hash, "rank": rank, "relative_error": error},
        json,
    )


def zoo_verify(zoo: ZooFolder, json: Json = None) -> None:
    """Hold every byte of a zoo against its checksums; exit code 0 if it is sound, 2 if not, with all faults as JSON.

    No writer should be at work. What the codes mean: docs/zoo.md.

    Example: lorasynth zoo verify runs/zoo --json faults.json
    """
    check_json(json, zoo)
    setup()
    from lorasynth.zoo.verify import look_over

    survey = look_over(zoo)
    record = {
        "zoo": str(zoo), "sound": not survey.faults, "items": len(survey.sound), "shards": len(survey.num_rows),
        "forgotten": len(survey.tombstones), "without_checksums": survey.unchecked,
        "faults": [fault.to_dict() for fault in survey.faults],
    }  # fmt: skip
    emit(record, json)
    if survey.faults:
        raise ZooError(
            f"{zoo}: expected a sound zoo, got {len(survey.faults)} faults, the first: {survey.faults[0]}; "
            "`lorasynth zoo repair` sets aside what is not sound"
        )


def zoo_repair(zoo: ZooFolder, json: Json = None) -> None:
    """Set aside what is not sound, in the zoo's quarantine/ with the reason; what is sound is not touched.

    `zoo build` or `zoo import` as before then makes what is missing. No writer should be at work.

    Example: lorasynth zoo repair runs/zoo
    """
    check_json(json, zoo)
    setup()
    from dataclasses import asdict

    from lorasynth.zoo.repair import repair_zoo

    done = repair_zoo(zoo)
    say(f"{zoo}: {len(done.faults)} faults, {len(done.dropped)} lines dropped, {done.items} items kept")
    emit({"zoo": str(zoo), **asdict(done), "faults": [fault.to_dict() for fault in done.faults]}, json)


def zoo_forget(
    zoo: ZooFolder,
    person: Annotated[str, typer.Option(help="Whom: the name that they were imported by, or their number in the zoo.")],
    json: Json = None,
) -> None:
    """Take a person out of a zoo for good: LoRAs, embeddings, quarantine; building and importing pass them over from now on.

    Models that learned from the zoo before still know what they learned: train them again.

    Example: lorasynth zoo forget runs/zoo --person 1234
    """
    check_json(json, zoo)
    setup()
    from dataclasses import asdict

    from lorasynth.zoo.forget import forget_person
    from lorasynth.zoo.pairs import person_number

    done = forget_person(zoo, person_number(person))
    say(f"{zoo}: {len(done.ids)} LoRAs forgotten, {done.items} are left; train again what learned from them")
    emit({"zoo": str(zoo), **asdict(done)}, json)


def zoo_export(
    zoo: ZooFolder,
    item: Annotated[list[str], typer.Option(help="Id of an item, as in manifest.jsonl; several times for several.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made where there is none.")],
    format: Annotated[Format, typer.Option(help="The format to write; kohya is read by every tool.")] = Format.kohya,
    json: Json = None,
    force: Force = False,
) -> None:
    """Write items of a zoo as ordinary LoRA files, in float16 as they are stored.

    Example: lorasynth zoo export runs/zoo --item portraits-1234 --out loras
    """
    check_json(json, zoo)
    setup()
    from lorasynth.zoo.export import export_items
    from lorasynth.zoo.store import Zoo

    files = export_items(Zoo.open(zoo), item, out, format.value, force=force)
    emit({"zoo": str(zoo), "format": format.value, "files": dict(zip(item, map(str, files), strict=True))}, json)


def zoo_nearest(
    zoo: ZooFolder,
    file: Annotated[Path, typer.Argument(help="A LoRA file or PEFT folder.")],
    count: Annotated[int, typer.Option(min=1, help="How many items.")] = 5,
    unet_only: UnetOnly = False,
    force_base: ForceBase = None,
    json: Json = None,
) -> None:
    """The items whose update is nearest to a LoRA's, nearest first.

    relative_distance is ``‖ΔX - ΔY‖ / ‖ΔX‖`` of the LoRA X and the item Y: 0 is the same update, 1 as far as no LoRA at all.

    Example: lorasynth zoo nearest runs/zoo me.safetensors --count 10
    """
    check_json(json, zoo, file)
    setup()
    from dataclasses import asdict

    from lorasynth.lora.factors import LoRA
    from lorasynth.zoo.nearest import nearest_items
    from lorasynth.zoo.store import Zoo

    lora = LoRA.load(file, unet_only=unet_only, base=force_base)
    found = nearest_items(Zoo.open(zoo), lora, count)
    emit({"zoo": str(zoo), "file": str(file), "norm": lora.norm(), "nearest": [asdict(one) for one in found]}, json)
