"""What was computed of photos, kept on disk by content: computed once, by any number of processes, killed at any time.

    SHELF/part-00012-KEY.safetensors    tensors of some photos, a row each; the header says whose, and each file's sha256

A part is a function of its photos alone, and is written whole. So whoever finishes, the folder is the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorasynth.errors import ModelError
from lorasynth.gallery.forms import PhotoFile
from lorasynth.storage.files import write_tensors
from lorasynth.storage.outputs import make_folder
from lorasynth.workers.leases import EXPIRES_AFTER_S, Leases
from lorasynth.workers.locks import locked

PART = 32
"""Photos of a part."""
Row = dict[str, Any]
Known = dict[str, tuple[Path, int]]
"""Where what was computed of a file is, by its sha256."""
_PHOTOS = "photos"


@dataclass(frozen=True)
class Part:
    """What is kept of some photos: tensors whose first dimension counts them, and what JSON holds."""

    rows: list[Row]
    tensors: dict[str, Tensor]


Make = Callable[[Sequence[PhotoFile], Known], Part]
"""Computes a part; what is known already may be taken from there."""


class Shelf:
    """Parts of one kind, by one encoder or one base, of some photos in an order that all processes have."""

    def __init__(self, folder: Path, files: Sequence[PhotoFile]):
        self.folder = folder
        self.parts = [files[start : start + PART] for start in range(0, len(files), PART)]
        self._paths = [folder / f"{_name(number, part)}.safetensors" for number, part in enumerate(self.parts)]

    def holds(self, number: int) -> bool:
        """Whether a part is there and its header sound. Names and sizes tell photos apart: to hash all again takes long."""
        return len(_rows(self._paths[number])) == len(self.parts[number])

    def load(self, number: int) -> Part:
        """A part.

        Raises:
            ModelError: it is damaged.
        """
        path = self._paths[number]
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); delete it, and prepare again") from None
        return Part(_rows(path), tensors)

    def known(self) -> Known:
        """All that is here, by content, whatever the files were called."""
        found: Known = {}
        for path in sorted(self.folder.glob("part-*.safetensors")):
            found |= {row["sha256"]: (path, i) for i, row in enumerate(_rows(path)) if row["sha256"]}
        return found

    def fill(
        self,
        make: Make,
        *,
        on_look: Callable[[int], None] = lambda _: None,
        expires_after_s: float = EXPIRES_AFTER_S,
    ) -> None:
        """Compute what is missing, together with all other processes that do the same.

        Args:
            make: computes a part.
            on_look: called now and then with how many photos are missing.
            expires_after_s: when a silent process of another machine is given up.

        Raises:
            UsageError: the disk is full or not writable; what is there stays.
            ZooError: locks do not reach another machine that is at work here.
        """
        make_folder(self.folder)
        left = [number for number in range(len(self.parts)) if not self.holds(number)]
        if not left:
            return
        known, leases = self.known(), Leases(self.folder, expires_after_s=expires_after_s)
        leases.require_locks_that_reach()

        numbers = {_name(number, self.parts[number]): number for number in left}

        def unfinished() -> Iterator[str]:
            for name, number in list(numbers.items()):
                if self.holds(number):
                    del numbers[name]
                else:
                    yield name

        leases.share_out(
            unfinished,
            lambda name: self._make(numbers[name], make, known),
            lambda: on_look(sum(len(self.parts[number]) for number in numbers.values())),
        )
        self._tidy(leases)

    def _make(self, number: int, make: Make, known: Known) -> None:
        if not self.holds(number):
            part = make(self.parts[number], known)
            with locked(self.folder):
                write_tensors(self._paths[number], part.tensors, {_PHOTOS: json.dumps(part.rows)})

    def _tidy(self, leases: Leases) -> None:
        """Remove leases, what killed writers left, and parts of photos that are gone."""
        with locked(self.folder):  # parts are written under the lock: nobody is writing now
            leases.tidy()
            for path in [*self.folder.glob(".part-*.part"), *self.folder.glob("part-*.safetensors")]:
                if path not in self._paths:
                    path.unlink(missing_ok=True)


def _name(number: int, files: Sequence[PhotoFile]) -> str:
    """A part's name, by its photos' names and sizes: another part never takes its place."""
    said = json.dumps([(file.name, file.size) for file in files]).encode()
    return f"part-{number:05d}-{hashlib.sha256(said).hexdigest()[:12]}"


def take(sha256: str, known: Known) -> tuple[Row, dict[str, Tensor]] | None:
    """A photo's row and tensors by its content. None where they are not known, or were replaced since."""
    if sha256 not in known:
        return None
    path, index = known[sha256]
    try:
        with safe_open(path, "pt") as file:
            row = json.loads(file.metadata()[_PHOTOS])[index]
            tensors = {name: file.get_slice(name)[index : index + 1] for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, ValueError):
        return None
    return (row, tensors) if row["sha256"] == sha256 else None


def gather(rows: Sequence[tuple[Row, dict[str, Tensor]]]) -> Part:
    """A part of some photos."""
    names = rows[0][1].keys()
    return Part([row for row, _ in rows], {name: torch.cat([tensors[name] for _, tensors in rows]) for name in names})


def _rows(path: Path) -> list[Row]:
    try:
        with safe_open(path, "pt") as file:
            return list(json.loads((file.metadata() or {})[_PHOTOS]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return []
