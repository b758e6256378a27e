"""Verbs for who has pictures: data check, data export."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, check_folder, check_json, emit, say, setup
from lorasynth.cli.photos import ALIKE, Alike

Photos = Annotated[
    str, typer.Argument(help="A folder or .zip of photos, a sub-folder a subject; or hf://datasets/OWNER/NAME.")
]
EncoderName = Annotated[
    str,
    typer.Option(
        help="What embeds photos: a folder or file of ONNX face models, aligned:FILE, clip:FOLDER, dinov2:FOLDER, a hub id, "
        "or a drawn world's name; see docs/reference/real-faces.md."
    ),
]
InstancePrompt = Annotated[
    str | None, typer.Option(help="The caption of photos that have none: 'a photo of sks person' by default.")
]


def data_check(
    photos: Photos,
    encoder: EncoderName,
    instance_prompt: InstancePrompt = None,
    alike: Annotated[Alike, typer.Option(help=ALIKE)] = Alike.leave_out,
    json: Json = None,
    html: Annotated[Path | None, typer.Option(help="Write the results with pictures to this HTML page.")] = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Who is there, and which photos can be used. Everything that is left out is listed with its reason. Nothing is trained.

    Example: lorasynth data check people/ --encoder models/buffalo_l --html check.html
    """
    from lorasynth.errors import UsageError
    from lorasynth.storage.files import write_bytes
    from lorasynth.storage.outputs import require_new_output

    check_json(json, Path(photos), *(path for path in (html,) if path is not None), force=force)
    if html is not None:
        require_new_output(html, force=force, suffix=".html")
    setup(device)
    from tqdm import tqdm

    from lorasynth.encoders import describe
    from lorasynth.gallery.check import judge
    from lorasynth.gallery.findings import look_at
    from lorasynth.gallery.page import page
    from lorasynth.opening import open_encoder, open_gallery

    gallery, opened = (
        open_gallery(photos, instance_prompt=instance_prompt, keep_alike=alike == Alike.keep),
        open_encoder(encoder),
    )
    say(describe(opened.record))
    bar = tqdm(gallery.files, desc="photos", unit=" photos", mininterval=1.0)
    report = judge(gallery, look_at(gallery, opened, bar))
    record = report.record(gallery, opened.record)
    for reason, count in record["by_reason"].items():
        say(f"left out: {count} {reason}")
    for note in record["notes"]:
        say(note)
    say(
        f"{record['usable']} of {record['photos']} photos of {record['subjects']} subjects can be used; {record['trainable']} "
        "subjects have photos enough to be trained on"
    )
    if html is not None:
        write_bytes(html, page(gallery, record).encode(errors="backslashreplace"))
    emit(record, json)
    if not record["usable"]:
        raise UsageError(f"{photos}: expected photos that can be used, got none; see the reasons above")


def data_export(
    world: Annotated[str, typer.Argument(help="A drawn world's name.")],
    out: Annotated[Path, typer.Option("--out", help="The folder; the same again goes on.")],
    people: Annotated[int, typer.Option(min=1, max=99_000, help="How many people.")] = 100,
    photos: Annotated[int, typer.Option(min=1, max=600, help="Photos of each.")] = 10,
    size: Annotated[int, typer.Option(min=48, max=1_024, help="Pixels a side.")] = 256,
    json: Json = None,
    force: Force = False,
) -> None:
    """A drawn world as an ordinary folder: a sub-folder of pictures a person, and metadata.jsonl with captions.

    Example: lorasynth data export portraits --people 600 --out people
    """
    check_json(json, out, force=force)
    check_folder(out)
    setup()
    from lorasynth.drawn.export import export_people
    from lorasynth.worlds.world import get_domain

    count = export_people(get_domain(world), people, photos, out, size=size, force=force, report=say)
    emit({"out": str(out), "people": people, "photos": count, "size": size}, json)
