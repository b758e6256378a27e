"""Where a LoRA's file goes: a new name within ComfyUI's first ``loras`` folder."""

from itertools import count
from pathlib import Path

import folder_paths

from lorasynth.errors import UsageError

SUFFIX = ".safetensors"
NUMBER, REFUSE, REPLACE = "add a number", "refuse", "replace"
MAX_PART_BYTES = 240
"""Of a folder's or file's name: file systems take 255, with the ending and a number."""
MAX_PARTS = 8
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""What Windows keeps for devices, with any ending; a LoRA goes from one machine to another."""


def place_for(name: str, if_exists: str) -> Path:
    """The file to write; its folder is made.

    Args:
        name: within the folder, with or without ``.safetensors``; may name subfolders.
        if_exists: NUMBER: ``me.safetensors``, ``me-2.safetensors``, …; otherwise the very name, taken or not.

    Raises:
        UsageError: the name is none, leads out of the folder, is too long, or its folder cannot be made.
    """
    root = Path(folder_paths.get_folder_paths("loras")[0]).resolve()
    stem = name.strip().removesuffix(SUFFIX)
    if not Path(stem).name or not stem.isprintable():
        raise UsageError(f"expected a name for the LoRA's file, such as people/me, got {name!r}")
    path = (root / f"{stem}{SUFFIX}").resolve()
    if not path.is_relative_to(root):
        raise UsageError(f"{name!r}: expected a name within ComfyUI's loras folder, got one that leads out of it")
    _check_parts(path.relative_to(root).parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{name!r}: its folder cannot be made ({error.strerror}); give another name") from None
    if if_exists != NUMBER:
        return path
    numbered = (path.with_name(f"{path.stem}-{n}{SUFFIX}") for n in count(2))
    return path if not path.exists() else next(p for p in numbered if not p.exists())


def _check_parts(parts: tuple[str, ...]) -> None:
    """Whether every file system takes the names of the folders and the file."""
    if len(parts) > MAX_PARTS:
        raise UsageError(f"expected a name of at most {MAX_PARTS} parts, got {len(parts)}; give a shorter one")
    for part in parts:
        shown = ascii(part if len(part) <= 40 else f"{part[:40]}...")
        if len(part.removesuffix(SUFFIX).encode()) > MAX_PART_BYTES:
            raise UsageError(
                f"{shown}: expected a name of at most {MAX_PART_BYTES} bytes, got {len(part.encode())}; give a shorter one"
            )
        if part.partition(".")[0].strip().lower() in _RESERVED:
            raise UsageError(f"{shown}: expected a name that Windows does not keep for a device; give another")


def listed_as(path: Path) -> str:
    """How ComfyUI's lists call a file of the folder: what Load LoRA takes as ``lora_name``."""
    return str(path.relative_to(Path(folder_paths.get_folder_paths("loras")[0]).resolve()))
