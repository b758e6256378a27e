"""Is a zoo sound? Every byte that it consists of is held against its checksum, and every fault gets a name and a place."""

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorasynth.errors import LayoutError, ModelError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import read_tensors
from lorasynth.storage.reading import read_json, sha256_file
from lorasynth.zoo.head import HEAD_NAME, INIT_NAME, SCHEMA_VERSION, zoo_json_hash
from lorasynth.zoo.manifest import MANIFEST_NAME, Item, Line, Manifest, read_manifest
from lorasynth.zoo.report import ZooFault, ZooReport
from lorasynth.zoo.shards import Shard, ShardHeader, open_header, read_shard, row_hash


def verify(folder: str | Path, *, hashes: bool = True) -> ZooReport:
    """Read all of a zoo and find all that is wrong with it. One shard is in memory at a time. Nothing is changed.

    No writer should be at work: what it is about to finish would be reported as left over.

    Args:
        folder: the zoo's.
        hashes: read the LoRAs and hold them against their checksums; otherwise only the shards' headers are read.

    Raises:
        ZooError: there is no such folder, or its manifest cannot be read.
    """
    folder = require_zoo(folder)
    report = ZooReport()
    report.layout = _check_zoo_json(folder, report.faults)
    manifest = read_manifest(folder)
    records = _check_lines(manifest, report)
    by_shard: dict[str, list[_Record]] = defaultdict(list)
    for record in records:
        by_shard[record.item.shard].append(record)
    for name, here in sorted(by_shard.items()):
        _check_shard(folder, name, here, report, hashes)
    _check_shapes(by_shard, report)
    _check_doubles(records, report)
    report.sound = [r.line for r in records if not r.reason]
    report.unsound += [(r.line.raw, r.reason) for r in records if r.reason]
    report.unchecked = sum(not line.checked for line in report.sound)
    _check_files(folder, set(by_shard), report)
    return report


def require_zoo(folder: str | Path) -> Path:
    """A folder that holds a zoo, or what is left of one.

    Raises:
        ZooError: it does not.
    """
    folder = Path(folder)
    if not (folder / HEAD_NAME).exists() and not (folder / MANIFEST_NAME).exists():
        raise ZooError(f"{folder}: expected a zoo, got no zoo.json; is this the right folder?")
    return folder


@dataclass
class _Record:
    """An item's line, and why it is not sound: its first fault."""

    line: Line
    item: Item
    reason: str = ""


def _check_zoo_json(folder: Path, faults: list[ZooFault]) -> Layout | None:
    """Hold zoo.json against its own hash and the initialisation against zoo.json's. Gives the layout."""
    path, layout = folder / HEAD_NAME, None
    try:
        record = read_json(path)
        layout = Layout.from_dict(record["layout"])
        if record["schema"] not in range(1, SCHEMA_VERSION + 1):
            raise ValueError(f"schema {record['schema']!r}")
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        if record["schema"] > 1 and (
            record.get("sha256") != zoo_json_hash(record) or path.read_bytes() != text.encode()
        ):
            raise ValueError("other contents than were written")
    except (ModelError, LayoutError, LookupError, TypeError, ValueError) as error:
        problem = f"expected what the zoo is of, as it was written, got {error}; restore it from a copy"
        faults.append(ZooFault(code="zoo-json", place=HEAD_NAME, problem=problem))
        return layout
    init = folder / INIT_NAME
    try:
        if record["schema"] > 1:
            actual = sha256_file(init) if init.exists() else None
            if actual != record["init"]:
                raise ModelError(f"expected sha256 {record['init']}, got {actual or 'no file'}")
        elif init.exists() and read_tensors(init)[0]["init"].shape != (layout.num_parameters,):
            raise ModelError(f"expected {layout.num_parameters} numbers, got others")
    except (ModelError, LookupError, OSError) as error:
        faults.append(ZooFault(code="init", place=init.name, problem=f"{error}; restore it from a copy"))
    return layout


def _check_lines(manifest: Manifest, report: ZooReport) -> list[_Record]:
    """Sort the manifest's lines. Gives those of items."""
    records = []

    def fault(code: str, number: int, problem: str, items: list[str]) -> str:
        found = ZooFault(code=code, place=f"{MANIFEST_NAME} line {number}", problem=problem, items=items)
        report.faults.append(found)
        return str(found)

    for line in manifest.lines:
        if line.record is None:
            report.unsound.append((line.raw, fault("bad-line", line.number, line.problem, [])))
        elif isinstance(line.record, Item):
            records.append(_Record(line, line.record))
            if line.altered:
                problem = "expected a record as it was written, got one that was changed"
                records[-1].reason = fault("altered-line", line.number, problem, [line.record.id])
        elif line.altered:
            problem = "expected a tombstone as it was written, got one that was changed; forget the person again"
            report.unsound.append((line.raw, fault("altered-line", line.number, problem, [])))
        else:
            report.tombstones.append(line)
    if torn := manifest.torn:
        problem = f"expected finished lines, got {len(torn)} bytes of a writer that was killed; they are no item"
        report.unsound.append((torn, fault("torn-line", len(manifest.lines) + 1, problem, [])))
    return records


def _check_shard(folder: Path, name: str, records: list[_Record], report: ZooReport, hashes: bool) -> None:
    """Hold each item of a shard against its hashes, or only against how many rows there are."""
    path = folder / f"{name}.safetensors"
    if not os.path.lexists(path):  # which, unlike Path.exists, has an answer for any name
        _refuse_shard("missing-shard", name, f"expected {path.name}, got no such file", records, report)
        return
    try:
        num_parameters = report.layout.num_parameters if report.layout else None
        shard = (read_shard if hashes else open_header)(folder, name, num_parameters)
    except ZooError as error:
        _refuse_shard("bad-shard", name, str(error), records, report)
        return
    report.shapes[name], report.num_rows[name] = shard.embedding_shape, shard.num_rows
    for record in records:
        if not record.reason:
            problem = _problem_of(shard, record.item) if isinstance(shard, Shard) else _missing(shard, record.item)
            _refuse_item(record, *problem, report)
    claimed = {record.item.row for record in records}
    report.faults += [
        ZooFault(code="orphan-row", place=f"{name} row {row}", problem="expected an item that it is of, got none")
        for row in range(shard.num_rows)
        if row not in claimed
    ]


def _check_shapes(by_shard: dict[str, list[_Record]], report: ZooReport) -> None:
    """All embeddings of a zoo have one shape."""
    usual = Counter(report.shapes.values()).most_common(1)
    for name, shape in report.shapes.items():
        if shape != usual[0][0]:
            problem = f"expected embeddings of shape {usual[0][0]} as in other shards, got {shape}"
            _refuse_shard("bad-shard", name, problem, by_shard[name], report)
            del report.num_rows[name]


def _check_doubles(records: list[_Record], report: ZooReport) -> None:
    """Of items that say the same the first is sound. Of people who were forgotten none is."""
    forgotten = {tombstone.forgotten for tombstone in report.forgotten}
    ids: set[str] = set()
    rows: set[tuple[str, int]] = set()
    for record in records:
        item = record.item
        if record.reason:
            continue
        if item.id in ids or (item.shard, item.row) in rows:
            _refuse_item(record, "double-item", "expected each id and each row once, got one again", report)
        elif item.person in forgotten:
            problem = f"expected no item of a forgotten person, got one of person {item.person}"
            _refuse_item(record, "forgotten-item", problem, report)
        else:
            ids.add(item.id)
            rows.add((item.shard, item.row))


def _check_files(folder: Path, shards: set[str], report: ZooReport) -> None:
    """Files that no item needs."""
    there = sorted(path.name.removesuffix(".safetensors") for path in folder.glob("shard-*.safetensors"))
    report.orphans = [name for name in there if name not in shards]
    report.leftovers = sorted(folder.glob(".*.part"))
    report.faults += [
        ZooFault(code="orphan-shard", place=name, problem="expected items in it, got none") for name in report.orphans
    ]
    problem = "expected no temporary file, got one of a writer that was killed"
    report.faults += [ZooFault(code="orphan-file", place=path.name, problem=problem) for path in report.leftovers]


def _refuse_item(record: _Record, code: str, problem: str, report: ZooReport) -> None:
    """Note what is wrong with an item, if anything."""
    if code:
        item = record.item
        fault = ZooFault(code=code, place=f"{item.shard} row {item.row}", problem=problem, items=[item.id])
        report.faults.append(fault)
        record.reason = str(fault)


def _refuse_shard(code: str, name: str, problem: str, records: list[_Record], report: ZooReport) -> None:
    """Note what is wrong with a shard: none of its items is sound."""
    fault = ZooFault(code=code, place=name, problem=problem, items=[record.item.id for record in records])
    report.faults.append(fault)
    for record in records:
        record.reason = record.reason or str(fault)


def _missing(shard: Shard | ShardHeader, item: Item) -> tuple[str, str]:
    """Whether an item's row is behind the end of its shard: a fault's code and words. Empty if not."""
    if item.row >= shard.num_rows:
        return "missing-row", f"expected at least {item.row + 1} rows, got {shard.num_rows}"
    return "", ""


def _problem_of(shard: Shard, item: Item) -> tuple[str, str]:
    """What is wrong with an item's row: a fault's code and words. Empty if nothing."""
    if any(missing := _missing(shard, item)):
        return missing
    if (actual := row_hash(shard.vector_bytes(item.row))) != item.sha256:
        return "altered-lora", f"expected sha256 {item.sha256[:12]} of its LoRA, got sha256 {actual[:12]}"
    faces = shard.embedding_bytes(item.row)
    if item.embeddings_sha256 and (actual := row_hash(faces)) != item.embeddings_sha256:
        expected = item.embeddings_sha256[:12]
        return "altered-faces", f"expected sha256 {expected} of its embeddings, got sha256 {actual[:12]}"
    if not item.embeddings_sha256 and not np.isfinite(np.frombuffer(faces, np.float16)).all():
        return "altered-faces", "expected finite embeddings, got others"
    return "", ""
