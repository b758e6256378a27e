"""What a zoo's manifest says, kept up to date by reading only what was added; and adding to it, all of a shard or nothing."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from lorasynth.errors import UsageError, ZooError
from lorasynth.zoo.manifest import MANIFEST_NAME, UNFINISHED, Item, finished_length, sync_folder, to_line

# NOTE: patterns of lines as `to_line` writes them; a search is fifty times faster than reading them as JSON.
_ITEM = re.compile(
    rb'^\{"id": ("(?:[^"\\]|\\.)*")(?:, "person": (-?\d+), "split": "[^"]*", "shard": "([^"]*)")?', re.MULTILINE
)
_TOMBSTONE = re.compile(rb'^\{"forgotten": (-?\d+)(?:.*"shards": (\[[^\]]*\]))?', re.MULTILINE)


class Ledger:
    """Whom and what a manifest names. To look again is to read what was added. All of it only where it was replaced.

    Args:
        folder: the zoo's.
    """

    def __init__(self, folder: Path):
        self.path = folder / MANIFEST_NAME
        self._forget()

    def _forget(self) -> None:
        self.persons: set[int] = set()  # who has items
        self.forgotten: set[int] = set()  # who was taken out
        self.shards: set[str] = set()  # names that a new shard may not have
        self._ids: set[bytes] = set()  # as JSON
        self._file, self._end, self._last = 0, 0, b""  # inode; how much of it was read; the last line of that

    def missing(self, persons: Sequence[int]) -> list[int]:
        """Those who are neither in nor were taken out."""
        return [person for person in persons if person not in self.persons and person not in self.forgotten]

    def refresh(self) -> None:
        """Take in what was added.

        Raises:
            ZooError: the manifest cannot be read.
        """
        try:
            added = self._read()
        except FileNotFoundError:
            self._forget()
            return
        except OSError as error:
            raise ZooError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from None
        for id, person, shard in _ITEM.findall(added):
            self._ids.add(id)
            if shard:
                self.persons.add(int(person))
                self.shards.add(shard.decode())
        for person, shards in _TOMBSTONE.findall(added):
            self.forgotten.add(int(person))
            self.shards |= set(json.loads(shards or b"[]"))
        if added:
            self._end += len(added)
            self._last = added[added.rfind(b"\n", 0, -1) + 1 :]

    def _read(self) -> bytes:
        """The finished lines that were added. All lines of another file than the last time, and all else is forgotten."""
        with self.path.open("rb") as file:
            file.seek(self._end - len(self._last))
            content = file.read()
            # NOTE: the last line too, since the number of a file that was replaced can be given to a later one.
            if os.fstat(file.fileno()).st_ino == self._file and content.startswith(self._last):
                content = content[len(self._last) :]
            else:
                self._forget()
                self._file = os.fstat(file.fileno()).st_ino
                file.seek(0)
                content = file.read()
        return content[: finished_length(content)]

    def free_shard(self, *, but_for_files: bool = False) -> str:
        """The name of a shard that is in no line and no file yet. Whoever calls holds the lock until it is in.

        Args:
            but_for_files: a file of that name may lie there: a writer was killed before its lines, or lines were lost.
        """
        self.refresh()
        files = {path.name.removesuffix(".safetensors") for path in self.path.parent.glob("shard-*.safetensors")}
        taken = self.shards if but_for_files else self.shards | files
        numbers = (re.match(r"shard-(\d{1,9})(\.|$)", name) for name in taken)
        return f"shard-{1 + max((int(found[1]) for found in numbers if found), default=-1):05d}"

    def require_new(self, shard: str, records: Sequence[Item]) -> None:
        """Check that a shard may come in. Whoever calls holds the lock until it is in.

        Raises:
            ZooError: it or one of its items stands there already, or is of somebody who was forgotten.
        """
        self.refresh()
        for record in records:
            if json.dumps(record.id).encode() in self._ids:
                raise ZooError(f"{self.path}: expected a new item, got {record.id!r}, which stands there; leave it out")
            if record.person in self.forgotten:
                raise ZooError(f"{self.path}: expected people who may be in it, got {record.person}, who was forgotten")
        if shard in self.shards:
            raise ZooError(f"{self.path}: expected a new shard, got {shard}, which stands there; give it another name")

    def append(self, records: Sequence[Item]) -> None:
        """Add a shard's records, durably, after `require_new`. They are there all at once, or not at all.

        What a killed writer left unfinished is cut off: it was no item.

        Raises:
            UsageError: the disk is full, or the manifest cannot be written.
        """
        lines = b"".join(map(to_line, records))
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(UNFINISHED + lines[1:])
                file.flush()
                os.fsync(file.fileno())
                # One byte makes them true.
                file.seek(self._end)
                file.write(lines[:1])
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{self.path}: could not be written ({error.strerror}); make room, run `lorasynth zoo repair`, and go on"
            ) from None
        sync_folder(self.path.parent)
