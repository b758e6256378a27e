"""LoRAs of many people in one call: a file and a line of a report for each, and the same call again goes on."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorasynth.errors import LorasynthError, UsageError
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.files import write_bytes
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.tables import read_table, unused_columns
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.importing.finding import PHOTOS, is_trace
from lorasynth.zoo.importing.pairing import photos_in

REPORT = "report.jsonl"
_ENDING = ".safetensors"
_MAX_NAME_BYTES = 200
_COLUMNS = ("person", "photo")


@dataclass(frozen=True)
class Counts:
    """What came of the people of a call."""

    made: int
    kept: int  # were there from an earlier call
    failed: int


def people_of_table(table: Path, report: Callable[[str], None] = lambda _: None) -> dict[str, list[Path]]:
    """Photos by person, of a table with the columns ``person`` and ``photo``, a row a photo.

    ``photo`` is a file or a folder of photos, relative to the table. In JSONL and Parquet it may be a list of such.

    Args:
        table: which.
        report: is told of columns that nobody reads.

    Raises:
        UsageError: the table cannot be read, or lacks a column.
    """
    people: dict[str, list[Path]] = {}
    rows = read_table(table, _COLUMNS)
    if unused := unused_columns(table, rows, _COLUMNS):
        report(unused)
    for row in rows:
        said = row["photo"] if isinstance(row["photo"], list) else [row["photo"]]
        paths = [table.parent / str(each) for each in said]
        photos = [photo for path in paths for photo in (photos_in(path) if path.is_dir() else (path,))]
        people.setdefault(str(row["person"]).strip(), []).extend(photos)
    if not people:
        raise UsageError(f"{shown(table)}: expected a row a photo, got none; add columns person and photo with rows")
    return people


def people_of_folder(folder: Path) -> dict[str, list[Path]]:
    """Photos by person, of a folder with a sub-folder for each.

    Raises:
        UsageError: there is no sub-folder, or photos lie beside the sub-folders: nobody says whose they are.
    """
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not is_trace(path.name))
    people = {path.name: list(photos_in(path)) for path in inside if path.is_dir()}
    if stray := [path.name for path in inside if path.is_file() and path.suffix.lower() in PHOTOS]:
        raise UsageError(
            f"{shown(folder)}: expected a sub-folder for each person, got the photo {printable(stray[0])} beside them; move it "
            "into its person's folder"
        )
    if not people:
        raise UsageError(f"{shown(folder)}: expected a sub-folder for each person, got none")
    return people


def synthesize_people(
    model: Synthesizer,
    people: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    settings: Mapping[str, Any],
    format: str = "kohya",
    metadata: Mapping[str, str],
    force: bool = False,
    report: Callable[[str], None] = print,
) -> Counts:
    """Write ``out/PERSON.safetensors`` for each person, and ``out/report.jsonl`` with a line for each.

    One person's bad photo ends nothing: the line says what is wrong. A person whose LoRA is there is not made again. Each file is
    byte for byte that of a call for the person alone.

    Args:
        model: whose encoder and priors.
        people: photos by name.
        out: the folder, which may hold an earlier call's files.
        settings: of `Synthesizer.__call__`.
        format: of the files: "kohya" or "diffusers".
        metadata: for each file's header.
        force: make everybody again.
        report: gets a line for each person who fails.

    Raises:
        UsageError: the folder cannot be written.
    """
    make_folder(out)
    made = kept = failed = 0
    lines: list[dict[str, Any]] = []
    try:
        for line in _each(model, people, out, settings, format, metadata, force):
            lines.append(line)
            made, kept, failed = made + ("seconds" in line), kept + ("kept" in line), failed + ("error" in line)
            if "error" in line:
                report(f"{printable(line['person'])}: {line['error']}")
    finally:  # also of a call that was interrupted
        write_bytes(out / REPORT, *(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
    return Counts(made=made, kept=kept, failed=failed)


def _each(
    model: Synthesizer,
    people: Mapping[str, Sequence[Path]],
    out: Path,
    settings: Mapping[str, Any],
    format: str,
    metadata: Mapping[str, str],
    force: bool,
) -> Iterator[dict[str, Any]]:
    """A line for each person."""
    taken: dict[str, str] = {}  # a file system may not tell capitals apart
    for person, photos in people.items():
        line: dict[str, Any] = {"person": person, "photos": len(photos)}
        try:
            path = out / _file_name(person)
            if (other := taken.setdefault(path.name.casefold(), person)) != person:
                raise UsageError(
                    f"expected names that differ in more than capitals, got {printable(other)} too; rename one"
                )
            if not photos:
                raise UsageError("expected at least one photo, got none")
            if path.exists() and not force:
                yield line | {"output": path.name, "kept": True}
                continue
            start = time.perf_counter()
            lora = model(list(photos), **settings)
            lora.save(path, format, torch.float16, metadata, force=force)
            seconds = round(time.perf_counter() - start, 4)
            yield line | {
                "output": path.name,
                "seconds": seconds,
                "norm": lora.norm(),
                "remarks": [*model.last_notes, *model.last_warnings],
            }
        except LorasynthError as error:
            yield line | {"error": str(error)}


def _file_name(person: str) -> str:
    """A person's name as a file's.

    Raises:
        UsageError: it is no file's name: it has a separator, say, or leads out of the folder.
    """
    plain = person.isprintable() and not set(person) & set('/\\:*?"<>|') and person.strip(". ") == person
    if not plain or not person or len(os.fsencode(person)) > _MAX_NAME_BYTES:
        raise UsageError(
            f'expected a name that a file can have, got {printable(person)!r}; leave out / \\ : * ? " < > | and dots at the ends'
        )
    return person + _ENDING
