"""The results of one experiment: a line of JSON for each cell and seed, in one file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasynth.errors import UsageError
from lorasynth.storage.files import write_bytes
from lorasynth.storage.system import lock, require_locks

Record = dict[str, Any]
Key = tuple[str, int]
"""A cell and its seed."""


@dataclass(frozen=True)
class ResultsFile:
    """One experiment's file, which any number of processes add to. It need not exist yet."""

    path: Path

    def read(self) -> dict[Key, Record]:
        """All results. None where there is no file.

        Raises:
            UsageError: a line is no result, or two are of one cell and seed.
        """
        if not self.path.exists():
            return {}
        found: dict[Key, Record] = {}
        for number, line in enumerate(self.path.read_bytes().splitlines(), 1):
            try:
                record = json.loads(line)
                key = (str(record["cell"]), int(record["seed"]))
                complete = bool(record["figures"]) and isinstance(record["config"], dict) and key not in found
            except (ValueError, KeyError, TypeError):
                complete = False
            if not complete:
                raise UsageError(
                    f"{self.path}: line {number}: expected one result for each cell and seed, got {line[:60]!r}; remove the line "
                    "and run the experiment again"
                )
            found[key] = record
        return found

    def add(self, record: Record) -> None:
        """Write a result, in place of an older one of the same cell and seed. The file is whole at any time.

        Raises:
            UsageError: the file holds something else, or its folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(self.path.parent):
            records = self.read() | {(record["cell"], record["seed"]): record}
            ordered = (records[key] for key in sorted(records, key=lambda key: (key[1], key[0])))
            write_bytes(self.path, *(json.dumps(each).encode() + b"\n" for each in ordered))


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Be the only process that writes here. The system lets go when the process dies."""
    require_locks()
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
