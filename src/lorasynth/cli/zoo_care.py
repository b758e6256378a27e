"""Verbs for who tends a zoo: info, verify, repair, resize, forget, export, nearest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    ForceBase,
    Format,
    Json,
    UnetOnly,
    ZooFolder,
    check_folder,
    check_json,
    check_outside_zoos,
    check_zoo,
    emit,
    say,
    setup,
    setup_without_torch,
)
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions
from lorasynth.errors import UsageError, ZooError

if TYPE_CHECKING:
    from lorasynth.subjects.source import PhotoSource
    from lorasynth.zoo.store import Zoo


@expanded
def zoo_info(
    zoo: ZooFolder,
    photos: PhotoOptions,
    measure: Annotated[
        int,
        typer.Option(
            min=0,
            max=256,
            help="Measure similarity, repeatability and which modules carry a subject, on this many held-out subjects. Of an "
            "imported zoo, or without the --data of a zoo of photographs: what it can teach, by the weights of this many LoRAs.",
        ),
    ] = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """What a zoo holds. With --measure, how it is trained: similarity and repeatability, or what an imported one can teach.

    Faults are those that lines and sizes show. `zoo verify` holds every byte against its checksum.

    Example: lorasynth zoo info runs/zoo --measure 32
    """
    check_json(json, zoo, force=force)
    setup_without_torch()
    if measure:
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
    source = _photos_of(opened, photos, measure)
    if measure and (source is not None or "world" in opened.recipe):
        from lorasynth.evaluate.zoo_quality import open_subjects, zoo_quality

        record["quality"] = zoo_quality(opened, open_subjects(opened, source, report=say), measure, report=say)
    elif measure:
        from lorasynth.zoo.measuring import measure_weights

        record["quality"] = measure_weights(opened, measure)
        if said := record["quality"]["verdict"]:
            say(said)
    emit(record, json)


def _photos_of(zoo: "Zoo", photos: PhotoOptions, measure: int) -> "PhotoSource | None":
    """The photographs that a zoo was built from, where they are named.

    Raises:
        UsageError: they are named for a zoo that was not built from photographs, or for nothing to measure.
    """
    if photos.data is not None and not measure:
        raise UsageError("expected --data with --measure, got it alone; say how many subjects to measure")
    if photos.data is not None and "data" not in zoo.recipe:
        raise UsageError(
            f"{zoo.folder}: expected --data for a zoo that was built from photographs, got another; leave it out"
        )
    return photos.source(str(zoo.recipe.get("base", "")))


def zoo_resize(
    zoo: Annotated[Path, typer.Argument(help="The zoo's folder; it is not changed.")],
    rank: Annotated[int, typer.Option(min=1, max=1024, help="Rank that all LoRAs are brought to.")],
    out: Annotated[Path, typer.Option("--out", help="The new zoo's folder; the same again goes on.")],
    json: Json = None,
    force: Force = False,
) -> None:
    """Bring a zoo to another rank, by the leading singular directions of each update, and say what that cost.

    relative_error is ``‖ΔW - ΔW'‖ / ‖ΔW‖``: 0 is exact, as for any rank that is not lower.

    Example: lorasynth zoo resize runs/zoo --rank 1 --out runs/zoo-rank-1
    """
    check_json(json, zoo, out, force=force)
    check_zoo(out)
    setup()
    from lorasynth.zoo.resize import resize_zoo
    from lorasynth.zoo.store import Zoo

    resized, error = resize_zoo(Zoo.open(zoo), out, rank, report=say)
    emit(
        {"zoo": str(out), "items": len(resized), "layout": resized.layout.hash, "rank": rank, "relative_error": error},
        json,
    )


def zoo_verify(zoo: ZooFolder, json: Json = None, force: Force = False) -> None:
    """Hold every byte of a zoo against its checksums. Exit code 0 if it is sound, 2 if not, with all faults as JSON.

    No writer should be at work. What the codes mean: docs/zoo.md.

    Example: lorasynth zoo verify runs/zoo --json faults.json
    """
    check_json(json, zoo, force=force)
    setup_without_torch()
    from lorasynth.zoo.verify import verify

    report = verify(zoo)
    record = {
        "zoo": str(zoo), "sound": not report.faults, "items": len(report.sound), "shards": len(report.num_rows),
        "forgotten": len(report.tombstones), "without_checksums": report.unchecked,
        "faults": [fault.to_dict() for fault in report.faults],
    }  # fmt: skip
    emit(record, json)
    if report.faults:
        raise ZooError(
            f"{zoo}: expected a sound zoo, got {len(report.faults)} faults, the first: {report.faults[0]}; "
            "`lorasynth zoo repair` sets aside what is not sound"
        )


def zoo_repair(zoo: ZooFolder, json: Json = None, force: Force = False) -> None:
    """Set aside what is not sound, in the zoo's quarantine/ with the reason. What is sound is not touched.

    `zoo build` or `zoo import` as before then makes what is missing. No writer should be at work.

    Example: lorasynth zoo repair runs/zoo
    """
    check_json(json, zoo, force=force)
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
    force: Force = False,
) -> None:
    """Take a person out of a zoo for good: LoRAs, embeddings, quarantine. Building and importing pass them over from now on.

    Models that learned from the zoo before still know what they learned: train them again.

    Example: lorasynth zoo forget runs/zoo --person 1234
    """
    check_json(json, zoo, force=force)
    setup()
    from dataclasses import asdict

    from lorasynth.zoo.forget import forget_person

    done = forget_person(zoo, person)
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
    check_json(json, zoo, out, force=force)
    check_folder(out)
    check_outside_zoos(out)
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
    force: Force = False,
) -> None:
    """The items whose update is nearest to a LoRA's, nearest first.

    relative_distance is ``‖ΔX - ΔY‖ / ‖ΔX‖`` of the LoRA X and the item Y: 0 is the same update, 1 as far as no LoRA at all.

    Example: lorasynth zoo nearest runs/zoo me.safetensors --count 10
    """
    check_json(json, zoo, file, force=force)
    setup()
    from dataclasses import asdict

    from lorasynth.lora.factors import LoRA
    from lorasynth.zoo.nearest import nearest_items
    from lorasynth.zoo.store import Zoo

    opened = Zoo.open(zoo)
    lora = LoRA.load(file, unet_only=unet_only, base=force_base, like=opened.layout)
    found = nearest_items(opened, lora, count)
    emit({"zoo": str(zoo), "file": str(file), "norm": lora.norm(), "nearest": [asdict(one) for one in found]}, json)
