"""Whose LoRA is it? A file list and a table, or names side by side, become entries: LoRA, person, face."""

import csv
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasynth.encoders.embeddings import ENDINGS
from lorasynth.errors import UsageError
from lorasynth.lora.formats.peft import WEIGHTS_NAME

PHOTOS = (".png", ".jpg", ".jpeg", ".webp")
_EMBEDDING_ENDING = ".embedding"
PHOTO_FOLDER_ENDING = ".photos"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One LoRA to take in: a file or PEFT folder, the person's name, and the face: files of an embedding or photos."""

    lora: Path
    person: str
    faces: tuple[Path, ...]


def find_loras(paths: Sequence[str | Path]) -> list[Path]:
    """LoRA files and PEFT folders among files, folders (searched to the bottom) and glob patterns, in sorted order.

    Raises:
        UsageError: a path names nothing.
    """
    found: set[Path] = set()
    for given in paths:
        here = [Path(p) for p in glob.glob(str(given), recursive=True)] if glob.has_magic(str(given)) else [Path(given)]
        here = [p for p in here if p.exists()]
        if not here:
            raise UsageError(f"{given}: expected LoRA files or folders of them, got nothing there; check the path")
        for path in here:
            found |= _in_folder(path) if path.is_dir() else {path}
    return sorted(p for p in found if not p.stem.endswith(_EMBEDDING_ENDING))


def _in_folder(folder: Path) -> set[Path]:
    files = {p for p in folder.rglob("*.safetensors") if p.is_file()}
    return {p.parent if p.name == WEIGHTS_NAME else p for p in files}


def pair_by_name(loras: Iterable[Path]) -> list[Entry]:
    """Each LoRA with the face that lies beside it under its name; the name is the person. Several LoRAs of one need a table.

    A face is ``me.embedding.npy`` (or ``.safetensors``), ``me.npy``, or photos: ``me.png`` say, and those in the folder
    ``me.photos``, for ``me.safetensors``.
    """
    return [Entry(lora=path, person=path.stem, faces=_beside(path)) for path in loras]


def _beside(lora: Path) -> tuple[Path, ...]:
    def there(endings: Sequence[str]) -> tuple[Path, ...]:
        return tuple(p for e in endings if (p := lora.with_name(lora.stem + e)).is_file())

    embeddings = there([_EMBEDDING_ENDING + e for e in ENDINGS] + [".npy"])
    return embeddings[:1] or there(PHOTOS) + photos_in(lora.with_name(lora.stem + PHOTO_FOLDER_ENDING))


def photos_in(folder: Path) -> tuple[Path, ...]:
    """The photos that lie in a folder, by their names' endings, in sorted order; none where there is no folder."""
    there = os.path.isdir(folder)  # which, unlike Path.is_dir, has an answer for any name
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTOS)) if there else ()


def pair_by_table(loras: Iterable[Path], table: Path) -> list[Entry]:
    """Each LoRA with its row of a CSV, JSONL or Parquet table with the columns ``file``, ``person`` and ``face``.

    ``file`` is a LoRA's path, relative to the table, or its bare name where that is unique; ``face`` is an embedding's file, a
    photo, a folder of photos, or (JSONL, Parquet) a list of such, relative to the table.

    Raises:
        UsageError: the table cannot be read, lacks a column, names a file twice, or has no row for a LoRA.
    """
    rows: dict[Path, dict[str, Any]] = {}
    names: dict[str, list[Path]] = {}
    for number, row in enumerate(read_table(table, ("file", "person", "face")), start=1):
        try:
            path = (table.parent / str(row["file"])).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in it, links in a circle
            raise UsageError(
                f"{table} row {number}: expected a file's name, got {row['file']!a:.80} ({error})"
            ) from None
        if path in rows:
            raise UsageError(f"{table} row {number}: expected each file once, got {row['file']} again; remove one row")
        rows[path] = row
        names.setdefault(path.name, []).append(path)
    entries = []
    for lora in loras:
        row_path = lora.resolve() if lora.resolve() in rows else None
        if row_path is None and len(names.get(lora.name, [])) == 1 and not names[lora.name][0].exists():
            row_path = names[lora.name][0]
        if row_path is None:
            raise UsageError(f"{table}: expected a row for {lora}, got none; add it, or leave the LoRA out")
        faces = _faces(table.parent, rows[row_path]["face"])
        entries.append(Entry(lora=lora, person=str(rows[row_path]["person"]), faces=faces))
    return entries


def _faces(folder: Path, value: Any) -> tuple[Path, ...]:
    """The files that a table's ``face`` names."""
    paths = [folder / str(name) for name in (value if isinstance(value, list) else [value])]
    return tuple(file for path in paths for file in (photos_in(path) if os.path.isdir(path) else (path,)))


def read_table(table: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a CSV, JSONL or Parquet table.

    Raises:
        UsageError: it cannot be read, or a row lacks one of ``columns``.
        MissingExtraError: Parquet needs pyarrow.
    """
    try:
        if table.suffix == ".csv":
            with table.open(newline="", encoding="utf-8") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
        elif table.suffix == ".jsonl":
            rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line that is no JSON object")
        elif table.suffix == ".parquet":
            rows = _read_parquet(table)
        else:
            raise UsageError(f"{table}: expected a .csv, .jsonl or .parquet table, got {table.suffix or 'no ending'}")
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())  # in one line: Parquet's reader takes several
        raise UsageError(f"{table}: expected a table, got {reason}; check the file") from None
    require_columns(table, rows, columns)
    return rows


def require_columns(table: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Raise UsageError if a row of a table has nothing in one of ``columns``."""
    for number, row in enumerate(rows, start=1):
        if missing := [c for c in columns if row.get(c) in (None, "")]:
            raise UsageError(f"{table} row {number}: expected columns {', '.join(columns)}, got no {missing[0]}")


def _read_parquet(table: Path) -> list[dict[str, Any]]:
    from lorasynth.errors import MissingExtraError

    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError:
        raise MissingExtraError(
            f"{table}: Parquet needs pyarrow; pip install 'lorasynth[parquet]', or write CSV"
        ) from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(table).to_pylist()
    except ArrowException as error:  # of many classes, not all of them a ValueError
        raise ValueError(error) from None
    return rows


def person_number(person: str) -> int:
    """A person's number in a zoo: the name if it is one, else 63 bits of its hash, the same everywhere."""
    if person.isascii() and person.isdigit() and len(person) < 18:
        return int(person)
    return int.from_bytes(hashlib.blake2b(person.encode(), digest_size=8).digest(), "big") >> 1


def split_of_person(number: int, validation: float, held_out: float) -> str:
    """The split that a person falls into, by a hash of the number: all LoRAs of a person fall into one."""
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8, person=b"lorasynth-split").digest()
    at = int.from_bytes(digest, "big") / 2**64
    return "held_out" if at < held_out else "validation" if at < held_out + validation else "train"
