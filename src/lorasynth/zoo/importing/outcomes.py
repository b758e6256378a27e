"""What became of each file that was to come into a zoo: ``import.jsonl``, a line a file, which forgets whom the zoo forgets."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorasynth.storage.files import write_bytes

REPORT_NAME = "import.jsonl"
KINDS = ("imported", "present", "duplicate", "forgotten", "refused", "ignored")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file.

    Attributes:
        file: which; in the report, that of a person who was forgotten is left blank.
        outcome: "imported", "present" (the person's very LoRA is in the zoo), "duplicate" (another's file or update is),
            "forgotten" (it, or its person, was taken out of the zoo and stays out), "refused", or "ignored" (it is no LoRA and no
            face of one).
        id: of the item in the zoo.
        person: the number of whom it is of, so that it can be forgotten with them.
        reason: why it was refused or ignored, in words.
        code: why it was refused, as programs know it: "no-face", "several-faces", "lora-file", ... (`lorasynth.errors`).
        relative_error: of ΔW, where the rank had to be lowered or modules were left out.
        left_out: the part of ``‖ΔW‖²`` in modules that the zoo's layout lacks.
        notes: what else of the file was left out.
        warnings: why the embedding may be worse than others: photos that were left out, blur, somebody else among them.
    """

    file: str
    outcome: str
    id: str = ""
    person: int | None = None
    reason: str = ""
    code: str = ""
    relative_error: float = 0.0
    left_out: float = 0.0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_report(folder: Path, outcomes: Sequence[Outcome], forgotten: Collection[int]) -> None:
    """Write what became of files, beside what earlier imports said of other files.

    Args:
        folder: the zoo's.
        outcomes: of the files of this import.
        forgotten: people who are to be named nowhere.
    """
    now = {outcome.file for outcome in outcomes}
    lines = [
        line for raw in _lines(folder) if (line := _record(raw)) is not None
        and line["file"] not in now and line["outcome"] != "forgotten" and line.get("person") not in forgotten
    ]  # fmt: skip
    for outcome in outcomes:
        line = asdict(outcome)
        if outcome.outcome == "forgotten":
            line |= {"file": "", "reason": "", "warnings": ()}
        lines.append(line)
    write_bytes(folder / REPORT_NAME, "".join(json.dumps(line) + "\n" for line in lines).encode())


def forget_outcomes(folder: Path, person: int, ids: Collection[str]) -> None:
    """Take what became of a person's files, which are named there, out of the report. Lines that say nobody's number go, too.

    Args:
        folder: the zoo's.
        person: who was forgotten.
        ids: of their items.
    """
    before = _lines(folder)
    kept = [raw for raw in before if (line := _record(raw)) is not None and not _is_of(line, person, ids)]
    if len(kept) < len(before):
        write_bytes(folder / REPORT_NAME, b"".join(raw + b"\n" for raw in kept))


def _is_of(line: dict[str, Any], person: int, ids: Collection[str]) -> bool:
    if line.get("person") == person or line.get("id") in ids:
        return True
    return line.get("person") is None and not line.get("id")


def _lines(folder: Path) -> list[bytes]:
    """The lines of a report. None where there is none, or something that is no file."""
    path = folder / REPORT_NAME
    return path.read_bytes().splitlines() if path.is_file() else []


def _record(raw: bytes) -> dict[str, Any] | None:
    """What a line says. None of one that is damaged. A report is no authority: nothing is lost with such a line."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("file"), str):
        return None
    return {"outcome": "", **line} if not isinstance(line.get("id"), (list, dict)) else None
