"""What is wrong with a zoo, fault by fault, and what of it is sound."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorasynth.lora.layout import Layout
from lorasynth.storage.faults import printable
from lorasynth.zoo.manifest import Item, Line, Tombstone

LEFTOVER = ("orphan-shard", "orphan-file")
"""Faults that a killed writer leaves: files that no item needs."""
UNREPAIRABLE = ("zoo-json", "init")
"""Faults of what a zoo has once and cannot do without."""


@dataclass(frozen=True, kw_only=True)
class ZooFault:
    """Something wrong in a zoo. ``code`` is stable.

    ============== ==========================================================================================
    zoo-json, init ``zoo.json`` or ``init.safetensors`` is missing, unreadable or was changed
    torn-line      the manifest's last lines were not finished: their writer was killed
    bad-line       a line is no record
    altered-line   a line was changed after it was written
    double-item    an id, or the row of another item, again
    forgotten-item an item of somebody who was forgotten
    missing-shard  a shard that items are in is not there
    bad-shard      a shard is cut short, its header damaged, or of another layout
    missing-row    an item's row is behind the end of its shard
    altered-lora   an item's LoRA is not what its sha256 says. Also two rows that changed places
    altered-faces  an item's embeddings are not what their sha256 says, or not finite
    orphan-row     a row of a shard that no item has
    orphan-shard   a shard that no item is in
    orphan-file    a temporary file of a writer that was killed
    ============== ==========================================================================================
    """

    code: str
    place: str  # "zoo.json", "manifest.jsonl line 3", "shard-00000" or "shard-00000 row 2"
    problem: str  # "expected ..., got ..."
    items: list[str] = field(default_factory=list)  # whom it concerns

    def __str__(self) -> str:
        named = ", ".join(self.items[:3]) + (f" and {len(self.items) - 3} more" if len(self.items) > 3 else "")
        return printable(f"{self.place}{f' ({named})' if named else ''}: {self.problem}", limit=400)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "problem": printable(self.problem)}


@dataclass(kw_only=True)
class ZooReport:
    """What was found in a zoo's folder.

    Attributes:
        layout: of its LoRAs; None where ``zoo.json`` does not say.
        faults: all that is wrong; none in a sound zoo.
        sound: the lines of items whose every byte is right, in the manifest's order.
        tombstones: the lines of people who were forgotten.
        unsound: all other lines' bytes, with the reason.
        num_rows: of each shard that can be used.
        shapes: J and D of each shard that can be read.
        orphans: shards that no line names.
        leftovers: temporary files.
        unchecked: how many sound lines are of schema 1, which has a checksum of the LoRA alone.
    """

    layout: Layout | None = None
    faults: list[ZooFault] = field(default_factory=list)
    sound: list[Line] = field(default_factory=list)
    tombstones: list[Line] = field(default_factory=list)
    unsound: list[tuple[bytes, str]] = field(default_factory=list)
    num_rows: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    unchecked: int = 0

    @property
    def items(self) -> list[Item]:
        """The sound items."""
        return [line.record for line in self.sound if isinstance(line.record, Item)]

    @property
    def forgotten(self) -> list[Tombstone]:
        """The people who were forgotten."""
        return [line.record for line in self.tombstones if isinstance(line.record, Tombstone)]
