"""Taking items out of a zoo: their shards written anew without them, under other names, and then the manifest, in one step."""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lorasynth.errors import ZooError
from lorasynth.storage.faults import shown
from lorasynth.storage.files import write_tensors
from lorasynth.zoo.head import bring_head_up_to_date
from lorasynth.zoo.manifest import (
    Item,
    Tombstone,
    free_shard_name,
    read_manifest,
    replace_manifest,
    sync_folder,
    to_line,
)
from lorasynth.zoo.report import ZooReport
from lorasynth.zoo.shards import read_shard

QUARANTINE_NAME = "quarantine"
PREPARED_NAME = "prepared"
"""Folder of what was computed of photographs that a zoo is made from."""


def keep_only(folder: Path, report: ZooReport, kept: set[str], tombstone: Tombstone | None = None) -> list[str]:
    """Make a zoo hold some of its sound items and nothing else. Whoever calls holds the lock.

    Shards that only hold what is kept are not touched. The others are written anew, the manifest takes all of it up at once
    by a rename, and the old shards stay, for the caller to put away. Killed before the rename nothing has happened. Killed
    after it all has, but for orphans.

    Args:
        folder: the zoo's.
        report: of it as it is.
        kept: ids of the items that stay.
        tombstone: to put into the manifest; gets the names of the shards that were replaced.

    Returns:
        The shards that were written anew, by their old names.
    """
    items: dict[str, list[Item]] = defaultdict(list)
    for item in report.items:
        if item.id in kept:
            items[item.shard].append(item)
    replaced = {name for name, count in report.num_rows.items() if count != len(items[name])}
    # NOTE: names of files that nobody needs are taken too: they are to be put away, not written over.
    taken = {path.name.removesuffix(".safetensors") for path in folder.glob("shard-*.safetensors")}
    taken |= {name for t in report.forgotten for name in t.shards}
    moved: dict[str, Item] = {}
    for name in sorted(replaced):
        if items[name]:
            new = free_shard_name(name, taken)
            taken.add(new)
            vectors, embeddings = read_shard(folder, name).take([item.row for item in items[name]])
            write_tensors(folder / f"{new}.safetensors", {"vectors": vectors, "embeddings": embeddings})
            moved |= {item.id: replace(item, shard=new, row=row) for row, item in enumerate(items[name])}
    lines = [line.raw + b"\n" for line in report.tombstones]
    if tombstone is not None:
        lines.append(to_line(replace(tombstone, shards=sorted(replaced))))
    for line in report.sound:
        if isinstance(line.record, Item) and line.record.id in kept:
            new_item = moved.get(line.record.id)
            lines.append(to_line(new_item) if new_item else line.raw + b"\n")
    bring_head_up_to_date(folder)
    replace_manifest(folder, lines)
    return sorted(replaced)


@contextmanager
def refused(folder: Path) -> Iterator[None]:
    """Say in a sentence what the system refuses in a zoo's folder.

    Raises:
        ZooError: naming it.
    """
    try:
        yield
    except OSError as error:
        place = shown(error.filename or folder)
        raise ZooError(
            f"{shown(folder)}: expected files that can be changed, got {place}: {error.strerror}; move it away, or change its "
            "permissions, and run the same again"
        ) from None


def require_own(quarantine: Path) -> None:
    """Check that a quarantine, where there is one, lies in the zoo itself.

    Raises:
        ZooError: it is a link, through which a repair would write elsewhere.
    """
    if quarantine.is_symlink():
        raise ZooError(
            f"{shown(quarantine)}: expected a folder of the zoo, got a link; remove it, or put a folder there"
        )


def stray_shards(folder: Path) -> list[Path]:
    """Files of shards that the manifest does not name."""
    named = {line.record.shard for line in read_manifest(folder).lines if isinstance(line.record, Item)}
    return [
        path
        for path in sorted(folder.glob("shard-*.safetensors"))
        if path.name.removesuffix(".safetensors") not in named
    ]


def delete(paths: Sequence[Path]) -> list[str]:
    """Delete files, and folders in their places with all that is in them, durably. Gives their names."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for folder in {path.parent for path in paths}:
        sync_folder(folder)
    return [path.name for path in paths]


def put_away(paths: Sequence[Path], quarantine: Path) -> list[str]:
    """Move files into quarantine, beside what lies there under their names. Gives the names that they have there."""
    names = []
    for path in paths:
        quarantine.mkdir(exist_ok=True)
        target, number = quarantine / path.name, 0
        while target.exists() or target.is_symlink():
            number += 1
            target = quarantine / f"{path.stem}-{number}{path.suffix}"
        path.replace(target)
        names.append(target.name)
    if paths:
        sync_folder(quarantine)
        sync_folder(paths[0].parent)
    return names
