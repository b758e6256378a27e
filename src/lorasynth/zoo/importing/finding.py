"""LoRAs among files, folders and patterns; and every other file that lies there, with the reason why it is passed over."""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasynth.errors import UsageError
from lorasynth.lora.configuration import WEIGHTS_NAME
from lorasynth.storage.faults import shown

PHOTOS = (".png", ".jpg", ".jpeg", ".webp")
EMBEDDING_ENDING = ".embedding"
PHOTO_FOLDER_ENDING = ".photos"
_LORA = ".safetensors"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_TRACES = ("__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db")


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A file that lies among LoRAs and is none, and no face of one.

    Attributes:
        file: where.
        reason: why, as "expected ..., got ..." where it may have been meant as a LoRA.
        refused: whether it may have been meant as one.
    """

    file: Path
    reason: str
    refused: bool = False


def find_loras(paths: Sequence[str | Path]) -> list[Path]:
    """LoRA files and PEFT folders among files, folders (searched to the bottom) and glob patterns, in sorted order.

    What exists is taken literally, whatever brackets its name has. Folders are searched through links too, each once.

    Raises:
        UsageError: a path names nothing.
    """
    found: set[Path] = set()
    for path, literal in _given(paths):
        if literal and not os.path.isdir(path):
            found.add(path)
        else:
            found |= {_lora_of(file) for file in _files(path) if _is_lora(file)}
    return sorted(found)


def passed_over(paths: Sequence[str | Path], used: Iterable[Path]) -> list[PassedOver]:
    """The files in folders that `find_loras` was given which are neither a LoRA nor used otherwise, each with the reason.

    Args:
        paths: what `find_loras` was given.
        used: LoRAs, files of faces, the table.
    """
    taken = {os.path.abspath(path) for path in used}
    folders = {folder for folder in taken if os.path.isdir(folder)}  # PEFT's, all of whose files belong to one LoRA
    named = {os.path.splitext(path)[0] for path in taken if _is_lora(Path(path))} | folders
    found: dict[str, PassedOver] = {}
    for path, _ in _given(paths):
        for file in _files(path, hidden=True):
            place = os.path.abspath(file)
            if place not in taken and os.path.dirname(place) not in folders:
                found[place] = _reason(file, _of_lora(place) in named)
    return [found[place] for place in sorted(found)]


def is_trace(name: str) -> bool:
    """Whether a name is of what systems leave in folders (``._me.png``, ``.DS_Store``, ``Thumbs.db``), or hidden."""
    return name.startswith(".") or name.lower() in _TRACES


def _of_lora(place: str) -> str:
    """What a LoRA's path without its ending would be, if the file is a face of it."""
    folder = os.path.dirname(place)
    if folder.endswith(PHOTO_FOLDER_ENDING):
        return folder.removesuffix(PHOTO_FOLDER_ENDING)
    return os.path.splitext(place)[0].removesuffix(EMBEDDING_ENDING)


def _reason(file: Path, has_lora: bool) -> PassedOver:
    ending = file.suffix.lower()
    if is_trace(file.name):
        return PassedOver(file=file, reason="hidden, or a trace that a system left")
    if os.path.exists(file / "zoo.json"):
        return PassedOver(file=file, reason="a zoo, whose shards are no LoRAs; `lorasynth zoo export` writes them")
    if os.path.isdir(file):
        return PassedOver(file=file, reason="expected a folder that can be read, got none", refused=True)
    if ending in _PICKLES:
        reason = "expected a .safetensors file, got a pickle, which is never opened; run `lorasynth import-legacy`"
        return PassedOver(file=file, reason=reason, refused=True)
    if ".preview" in (suffix.lower() for suffix in file.suffixes[:-1]):
        return PassedOver(file=file, reason="a preview, which a LoRA drew; name it without .preview if it is a photo")
    if ending in (*PHOTOS, ".npy") or file.stem.endswith(EMBEDDING_ENDING):
        why = "another face of that LoRA was taken" if has_lora else "no LoRA of that name lies beside it"
        return PassedOver(file=file, reason=f"a photo or an embedding, and {why}")
    return PassedOver(file=file, reason="neither a LoRA nor a face")


def _given(paths: Sequence[str | Path]) -> Iterator[tuple[Path, bool]]:
    """What is there under the paths given, and whether it was named itself, not matched by a pattern."""
    for given in paths:
        if os.path.lexists(given):
            yield Path(given), True
            continue
        if not (here := sorted(_matching(str(given)))):
            raise UsageError(
                f"{shown(given)}: expected LoRA files or folders of them, got nothing there; check the path"
            )
        yield from ((path, False) for path in here)


def _matching(pattern: str) -> set[Path]:
    """What a glob pattern names: ``*``, ``?``, ``[...]`` and ``**``, which goes through each folder once."""
    if not glob.has_magic(pattern):
        return set()
    anchor, *parts = Path(pattern).parts if os.path.isabs(pattern) else ("", *Path(pattern).parts)
    here = {Path(anchor)}
    for part in parts:
        if part == "**":
            here = {folder for top in here for folder in _folders(top)}
        elif glob.has_magic(part):
            hidden = part.startswith(".")
            here = {
                folder / name
                for folder in here
                for name in _names(folder)
                if fnmatch.fnmatchcase(name, part) and (hidden or not name.startswith("."))
            }
        else:
            here = {path for folder in here if os.path.lexists(path := folder / part)}
    return here


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # no folder, or one that may not be entered
        return []


def _folders(top: Path) -> Iterator[Path]:
    """A folder and all below it, links followed, each once: links may lead back."""
    seen: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder
        waiting += sorted(
            (p for n in _names(folder) if os.path.isdir(p := folder / n) and not is_trace(n)), reverse=True
        )


def _files(top: Path, *, hidden: bool = False) -> Iterator[Path]:
    """The files below a folder, and with ``hidden`` what is not searched: hidden folders, zoos, folders that cannot be read.

    A file is below itself.
    """
    if not os.path.isdir(top):
        yield top
    zoos: list[Path] = []
    for folder in _folders(top):
        if any(folder.is_relative_to(zoo) for zoo in zoos):
            continue
        if folder != top and os.path.exists(folder / "zoo.json"):
            zoos.append(folder)
            yield from [folder] if hidden else []
            continue
        if hidden and not os.access(folder, os.R_OK | os.X_OK):
            yield folder
        for name in _names(folder):
            path = folder / name
            if is_trace(name):
                yield from [path] if hidden else []
            elif not os.path.isdir(path):
                yield path


def _is_lora(file: Path) -> bool:
    return file.suffix.lower() == _LORA and not file.stem.endswith(EMBEDDING_ENDING)


def _lora_of(file: Path) -> Path:
    return file.parent if file.name == WEIGHTS_NAME else file
