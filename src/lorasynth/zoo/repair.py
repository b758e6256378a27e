"""Making a damaged zoo sound again: what is not sound is set aside, with the reason. What is sound is not touched."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasynth.errors import ZooError
from lorasynth.storage.faults import printable
from lorasynth.storage.files import write_bytes
from lorasynth.workers.locks import locked
from lorasynth.zoo.report import LEFTOVER, UNREPAIRABLE, ZooFault
from lorasynth.zoo.rewrite import QUARANTINE_NAME, delete, keep_only, put_away, refused, require_own, stray_shards
from lorasynth.zoo.verify import require_zoo, verify

LOG_NAME = "dropped.jsonl"


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair did.

    Attributes:
        items: how many the zoo has now.
        faults: what was wrong.
        dropped: lines that the manifest had and has no more, with the reason; also in ``quarantine/dropped.jsonl``.
        rewritten: shards that were written anew without unsound rows.
        quarantined: files that were moved into ``quarantine/``, by their names there.
        deleted: temporary files, and shards of people who were forgotten.
    """

    items: int
    faults: list[ZooFault]
    dropped: list[dict[str, Any]]
    rewritten: list[str]
    quarantined: list[str]
    deleted: list[str]


def repair_zoo(folder: str | Path) -> Repaired:
    """Set aside what `verify` finds unsound, so that it finds nothing, and building or importing can make it again.

    Nothing is lost: what goes from the manifest is written to ``quarantine/dropped.jsonl`` first, and shards that go are moved
    beside it, but for those of people who were forgotten. The manifest changes in one step, by a rename. After a kill at any
    moment the same call again finishes. A sound zoo is left as it is, to the byte.

    Args:
        folder: the zoo's. No other writer may be at work; those that append wait.

    Raises:
        ZooError: ``zoo.json`` or the initialisation is damaged, which nobody can make again; nothing was changed.
        UsageError: the folder cannot be written.
    """
    folder = require_zoo(folder)
    with locked(folder), refused(folder):
        require_own(folder / QUARANTINE_NAME)
        report = verify(folder)
        if once := [fault for fault in report.faults if fault.code in UNREPAIRABLE]:
            raise ZooError(f"{folder}: cannot be repaired: {once[0]}")
        if not report.faults:
            return Repaired(items=len(report.items), faults=[], dropped=[], rewritten=[], quarantined=[], deleted=[])
        quarantine = folder / QUARANTINE_NAME
        _log(quarantine / LOG_NAME, report.unsound)
        rewritten: list[str] = []
        if any(fault.code not in LEFTOVER for fault in report.faults):
            rewritten = keep_only(folder, report, {item.id for item in report.items})
        private = {shard for tombstone in report.forgotten for shard in tombstone.shards}
        private |= {fault.place.rpartition(" row ")[0] for fault in report.faults if fault.code == "forgotten-item"}
        strays = stray_shards(folder)
        gone = [path for path in strays if path.name.removesuffix(".safetensors") in private]
        return Repaired(
            items=len(report.items),
            faults=report.faults,
            dropped=[{"line": printable(_text(raw), 500), "reason": reason} for raw, reason in report.unsound],
            rewritten=rewritten,
            quarantined=put_away([path for path in strays if path not in gone], quarantine),
            deleted=delete([*gone, *report.leftovers]),
        )


def _log(path: Path, unsound: list[tuple[bytes, str]]) -> None:
    """Add lines that are about to go, once each, to those that went before."""
    lines = [json.dumps({"line": _text(raw), "reason": reason}).encode() for raw, reason in unsound]
    before = path.read_bytes().splitlines() if path.exists() else []
    if new := [line for line in dict.fromkeys(lines) if line not in before]:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, b"".join(line + b"\n" for line in [*before, *new]))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
