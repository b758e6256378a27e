"""The manifest: which items a zoo has and whom it has forgotten, one line each, each line with a checksum of its own."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lorasynth.errors import ModelError, ZooError
from lorasynth.storage.faults import printable
from lorasynth.storage.files import write_bytes
from lorasynth.storage.reading import read_bytes

MANIFEST_NAME = "manifest.jsonl"
MAX_MANIFEST_MB = 4_096
UNFINISHED = b"\0"
"""What stands in the place of the first byte of lines that are being added, until all of them are written."""
_SHARD = re.compile(rb'"shard": "([^"]*)"')
_CHECK = re.compile(rb'(\{.*), "check": "([0-9a-f]{16})"\}', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One record of the manifest. An item exists only if it has one, and ``sha256`` is that of its row as stored.

    ``embeddings_sha256`` is that of its embeddings as stored. Zoos of schema 1 have none.
    """

    id: str
    person: int
    split: str
    shard: str
    row: int
    sha256: str
    source: str
    licence: str
    relative_error: float = 0.0  # of ΔW, where an import had to lower the rank
    embeddings_sha256: str = ""
    synthetic: str = ""  # what an imported LoRA's header says of the person; not in the line where it says nothing
    consent: str = ""


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """A person who was taken out: neither they nor these items come in again, and these shards are to be deleted."""

    forgotten: int  # the person
    ids: list[str]
    shards: list[str]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the manifest, read with care.

    Attributes:
        number: counted from 1.
        raw: its bytes, without the line end.
        record: what it says; None where it is no record.
        problem: why it is none, as "expected ..., got ..."; empty otherwise.
        altered: whether it was changed after it was written, by its checksum; lines of schema 1 cannot tell, and say no.
        checked: whether it has a checksum.
    """

    number: int
    raw: bytes
    record: Item | Tombstone | None
    problem: str = ""
    altered: bool = False
    checked: bool = True


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All lines of a manifest, and what stands behind them: records that a killed writer did not finish."""

    lines: list[Line] = field(default_factory=list)
    torn: bytes = b""


def read_manifest(folder: Path) -> Manifest:
    """The lines of a zoo's manifest, bad ones too. None where there is no manifest yet.

    Raises:
        ZooError: it cannot be read.
    """
    try:
        content = (
            read_bytes(folder / MANIFEST_NAME, MAX_MANIFEST_MB) if os.path.lexists(folder / MANIFEST_NAME) else b""
        )
    except ModelError as error:
        raise ZooError(f"{error}") from None
    length = finished_length(content)
    whole = content[:length].split(b"\n")[:-1]
    lines = [_read_line(number, raw) for number, raw in enumerate(whole, start=1)]
    return Manifest(lines=lines, torn=content[length:])


def read_records(folder: Path) -> tuple[tuple[Item, ...], tuple[Tombstone, ...]]:
    """The items of a zoo, and who was forgotten.

    Raises:
        ZooError: the manifest cannot be read, a line of it is damaged, or an item stands twice.
    """
    items: dict[str, Item] = {}
    forgotten: list[Tombstone] = []
    for line in read_manifest(folder).lines:
        if isinstance(line.record, Tombstone):
            forgotten.append(line.record)
        elif line.record is None:
            raise ZooError(
                f"{folder / MANIFEST_NAME} line {line.number}: {printable(line.problem)}; `lorasynth zoo repair` sets it aside"
            )
        elif line.record.id in items:
            raise ZooError(
                f"{folder / MANIFEST_NAME}: item {line.record.id!r} stands twice; remove one line, or run `lorasynth zoo repair`"
            )
        else:
            items[line.record.id] = line.record
    return tuple(items.values()), tuple(forgotten)


def finished_length(content: bytes) -> int:
    """How many bytes of a manifest, or of its end from the begin of a line on, are lines that were finished."""
    start = 0 if content.startswith(UNFINISHED) else content.rfind(b"\n" + UNFINISHED) + 1
    # Lines are added by shard: behind a mark that others follow something else went wrong, and these are not to be lost.
    if content.startswith(UNFINISHED, start) and len(set(_SHARD.findall(content, start))) <= 1:
        return start
    return content.rfind(b"\n") + 1


def to_line(record: Item | Tombstone) -> bytes:
    """A record as a line: JSON, and a checksum of all that stands before it."""
    values = {key: value for key, value in asdict(record).items() if value != "" or key not in ("synthetic", "consent")}
    body = json.dumps(values).encode()
    return body[:-1] + b', "check": "' + _check(body) + b'"}\n'


def replace_manifest(folder: Path, lines: Sequence[bytes]) -> None:
    """Put other lines in the place of all, in one step. Whoever calls holds the lock."""
    write_bytes(folder / MANIFEST_NAME, b"".join(lines))


def put_in_order(folder: Path) -> None:
    """Sort a manifest: who was forgotten, then items by shard and row. Whoever calls holds the lock.

    One with a bad line is left as it is, for a repair.
    """
    manifest = read_manifest(folder)
    if any(line.record is None for line in manifest.lines):
        return

    def place(line: Line) -> tuple[str, int]:
        return (line.record.shard, line.record.row) if isinstance(line.record, Item) else ("", 0)

    in_order = sorted(manifest.lines, key=place)
    if in_order != manifest.lines or manifest.torn:
        replace_manifest(folder, [line.raw + b"\n" for line in in_order])


def free_shard_name(shard: str, taken: set[str]) -> str:
    """A name that no shard has or had: the one asked for, or ``shard-00003.1`` after ``shard-00003``."""
    stem, number = shard.partition(".")[0], 0
    name = shard
    while name in taken:
        number += 1
        name = f"{stem}.{number}"
    return name


def sync_folder(folder: Path) -> None:
    """Make it durable which names a folder holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _read_line(number: int, raw: bytes) -> Line:
    try:
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise ValueError(type(values).__name__)
        checked = values.pop("check", None) is not None
        record = _typed(Tombstone if "forgotten" in values else Item, values)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return Line(number=number, raw=raw, record=None, problem=f"expected a record, got {error}")
    parts = _CHECK.fullmatch(raw)
    altered = checked and (parts is None or _check(parts[1] + b"}") != parts[2])
    return Line(number=number, raw=raw, record=record, altered=altered, checked=checked)


_IS: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: type(value) is int,
    float: lambda value: type(value) in (int, float),
    list[str]: lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
}
_CHECKS = {kind: {f.name: (_IS[f.type], f.default in ("", 0.0)) for f in fields(kind)} for kind in (Item, Tombstone)}
"""Each field's type, and whether a line may leave it out: made once, as a manifest has a line for each LoRA."""


def _typed(kind: type[Item] | type[Tombstone], values: dict[str, Any]) -> Item | Tombstone:
    """A record whose fields are all there and of their types. Else a ValueError that names one."""
    checks = _CHECKS[kind]
    if unknown := [name for name in values if name not in checks]:
        raise ValueError(f"the unknown field {unknown[0]!r}")
    for name, (right, optional) in checks.items():
        if name not in values:
            if optional:
                continue
            raise ValueError(f"no {name!r}")
        if not right(value := values[name]):
            raise ValueError(f"{name!r} of type {type(value).__name__}")
    if values.get("row", 0) < 0:
        raise ValueError(f"row {values['row']}")
    return kind(**values)
