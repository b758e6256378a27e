"""Whose LoRA is it? A file list and a table, or names side by side, become entries: LoRA, person, face."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lorasynth.encoders.embeddings import ENDINGS
from lorasynth.errors import UsageError
from lorasynth.gallery.gallery import composed, person_number
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.tables import read_table, require_columns, unused_columns
from lorasynth.zoo.importing.finding import (
    EMBEDDING_ENDING,
    PHOTO_FOLDER_ENDING,
    PHOTOS,
    find_loras,
    is_trace,
    passed_over,
)

_NO_NAMES = ("pytorch_lora_weights",)
"""Names that a library gives to every LoRA (diffusers' `save_lora_weights`): the folder's name is the person."""

_COLUMNS = ("file", "person", "face")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One LoRA to take in.

    Attributes:
        lora: a file or PEFT folder.
        person: whose it is, by name.
        faces: files of an embedding or of photos.
        by_name: whether files' names alone say who it is, and no table.
        rivals: all LoRAs of the same name, where there are several and nobody says whether they are of one person.
    """

    lora: Path
    person: str
    faces: tuple[Path, ...]
    by_name: bool = False
    rivals: tuple[Path, ...] = ()


def pair_by_name(loras: Iterable[Path]) -> list[Entry]:
    """Each LoRA with the face that lies beside it under its name. The name is the person. Several LoRAs of one need a table.

    A face is ``me.embedding.npy`` (or ``.safetensors``), ``me.npy``, or photos: ``me.png`` say, and those in the folder
    ``me.photos``, for ``me.safetensors`` or the PEFT folder ``me``. Endings may be in capitals. A file called as diffusers calls
    every LoRA, ``me/pytorch_lora_weights.safetensors``, has its folder's name.
    """
    listing = cache(_listing)
    entries = [Entry(lora=path, person=_person_of(path), faces=_beside(path, listing), by_name=True) for path in loras]
    same: dict[int, tuple[Path, ...]] = defaultdict(tuple)
    for entry in entries:
        same[person_number(entry.person)] += (entry.lora,)
    return [
        replace(entry, rivals=all_of_name) if len(all_of_name := same[person_number(entry.person)]) > 1 else entry
        for entry in entries
    ]


def _person_of(lora: Path) -> str:
    here = Path(os.path.abspath(lora))
    name = here.name if os.path.isdir(lora) else here.stem
    return here.parent.name or name if name in _NO_NAMES else name


Listing = dict[str, list[Path]]
"""A folder's files by name: Unicode's composed form, the ending in small letters."""


def _listing(folder: Path) -> Listing:
    files: Listing = defaultdict(list)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        stem, ending = os.path.splitext(name)
        files[composed(stem) + ending.lower()].append(folder / name)
    return files


def _beside(lora: Path, listing: Any) -> tuple[Path, ...]:
    """The files of the face of a LoRA: beside it, or beside its folder where that has the person's name."""
    places = [(lora.parent, lora.name if os.path.isdir(lora) else lora.stem)]
    if lora.stem in _NO_NAMES and lora.parent.name:
        places.append((lora.parent.parent, lora.parent.name))
    for folder, name in places:
        files = listing(folder)

        def there(endings: Sequence[str], files: Listing = files, name: str = name) -> tuple[Path, ...]:
            found = [path for ending in endings for path in files.get(composed(name) + ending, ())]
            return tuple(path for path in found if not os.path.isdir(path))

        embeddings = there([EMBEDDING_ENDING + ending for ending in ENDINGS] + [".npy"])
        if faces := embeddings[:1] or there(PHOTOS) + photos_in(folder / (name + PHOTO_FOLDER_ENDING)):
            return faces
    return ()


def photos_in(folder: Path) -> tuple[Path, ...]:
    """The photos that lie in a folder, by their names' endings, in sorted order. None where there is no folder."""
    there = os.path.isdir(folder)  # which, unlike Path.is_dir, has an answer for any name
    return tuple(sorted(p for p in folder.iterdir() if _is_photo(p))) if there else ()


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTOS and not is_trace(path.name)


def pair_by_table(loras: Iterable[Path], table: Path, report: Callable[[str], None] = lambda _: None) -> list[Entry]:
    """Each LoRA with its row of a CSV, JSONL or Parquet table with the columns ``file``, ``person`` and ``face``.

    ``file`` is a LoRA's path, relative to the table, or its bare name where that is unique. ``face`` is an embedding's file, a
    photo, a folder of photos, or (JSONL, Parquet) a list of such, relative to the table. A path is taken as it stands. Where
    nothing is there, with slashes for backslashes, and with accents composed or decomposed.

    Args:
        loras: files and PEFT folders.
        table: whose rows.
        report: is told of rows that are of none of the LoRAs, and of columns that nobody reads.

    Raises:
        UsageError: the table cannot be read, lacks a column, names a file twice, or has no row for a LoRA.
    """
    rows: dict[Path, dict[str, Any]] = {}
    names: dict[str, list[Path]] = {}
    records = read_table(table, _COLUMNS)
    for number, row in enumerate(records, start=1):
        _require_names(table, number, row)
        row = {**row, "person": _person(table, number, row["person"])}
        path = _row_path(table, number, str(row["file"]))
        if path in rows:
            raise UsageError(
                f"{shown(table)} row {number}: expected each file once, got {printable(str(row['file']))} again; remove one row"
            )
        rows[path] = row
        names.setdefault(composed(path.name), []).append(path)
    entries, unused = [], set(rows)
    for lora in loras:
        row_path = lora.resolve() if lora.resolve() in rows else None
        same_name = names.get(composed(lora.name), [])
        if row_path is None and len(same_name) == 1 and not same_name[0].exists():
            row_path = same_name[0]
        if row_path is None:
            raise UsageError(
                f"{shown(table)}: expected a row for {shown(lora)}, got none; add it, or leave the LoRA out"
            )
        row = rows[row_path]
        unused.discard(row_path)
        entries.append(Entry(lora=lora, person=row["person"], faces=_faces(table.parent, row["face"])))
    if said := unused_columns(table, records, _COLUMNS):
        report(said)
    if unused:
        first = shown(min(unused))
        report(f"{shown(table)}: {len(unused)} rows are of files that are not among the LoRAs; the first: {first}")
    return entries


def _require_names(table: Path, number: int, row: dict[str, Any]) -> None:
    """Refuse what names no file: of a face, a list of names is one too."""
    faces = row["face"] if isinstance(row["face"], list) else [row["face"]]
    for name in (row["file"], *faces):
        if isinstance(name, (bool, float, list, dict)) or name is None:
            raise UsageError(
                f"{shown(table)} row {number}: expected a file's name, got {printable(str(name), 80)}; name the file"
            )


def _row_path(table: Path, number: int, name: str) -> Path:
    try:
        return located(table.parent, name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in it, links in a circle
        raise UsageError(f"{shown(table)} row {number}: expected a file's name, got {name!a:.80} ({error})") from None


def located(folder: Path, name: str) -> Path:
    """The file that a table means: the name as it stands, else a way to write it under which something is there."""
    ways = list(dict.fromkeys(_ways(name)))
    there = next((folder / way for way in ways if os.path.lexists(folder / way)), None)
    if there is None and "\\" in name:  # of another machine: its last part may be a LoRA's bare name
        return folder / name.replace("\\", "/")
    return there or folder / name


def _ways(name: str) -> Iterator[str]:
    for way in (name, name.strip(), name.replace("\\", "/").strip()):
        yield way
        yield from (unicodedata.normalize(form, way) for form in ("NFC", "NFD"))


def _person(table: Path, number: int, value: Any) -> str:
    """A person's name of a table. A number that was stored as a fraction is nobody's name."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise UsageError(
        f"{shown(table)} row {number}: expected a person's name or whole number, got {value!r:.80}; store the column as text"
    )


def _faces(folder: Path, value: Any) -> tuple[Path, ...]:
    """The files that a table's ``face`` names."""
    paths = [located(folder, str(name)) for name in (value if isinstance(value, list) else [value])]
    return tuple(file for path in paths for file in (photos_in(path) if os.path.isdir(path) else (path,)))


def look_alikes(persons: Iterable[str]) -> list[list[str]]:
    """Names that differ in capitals, blanks or leading zeros only: nobody is guessed to be one person, but it may be a slip."""
    groups: dict[str, set[str]] = defaultdict(set)
    for person in persons:
        groups["".join(composed(person).casefold().split()).lstrip("0")].add(person)
    return [sorted(group) for _, group in sorted(groups.items()) if len({person_number(p) for p in group}) > 1]


def split_of_person(number: int, validation: float, held_out: float) -> str:
    """The split that a person falls into, by a hash of the number: all LoRAs of a person fall into one."""
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8, person=b"lorasynth-split").digest()
    at = int.from_bytes(digest, "big") / 2**64
    return "held_out" if at < held_out else "validation" if at < held_out + validation else "train"


__all__ = [
    "PHOTO_FOLDER_ENDING", "Entry", "find_loras", "located", "look_alikes", "pair_by_name", "pair_by_table", "passed_over",
    "person_number", "photos_in", "read_table", "require_columns", "split_of_person",
]  # fmt: skip
