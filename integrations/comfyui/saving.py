"""Where a LoRA's file goes: a new name within ComfyUI's first ``loras`` folder."""

from itertools import count
from pathlib import Path

import folder_paths

from lorasynth.errors import UsageError

SUFFIX = ".safetensors"
NUMBER, REFUSE, REPLACE = "add a number", "refuse", "replace"


def place_for(name: str, if_exists: str) -> Path:
    """The file to write; its folder is made.

    Args:
        name: within the folder, with or without ``.safetensors``; may name subfolders.
        if_exists: NUMBER: ``me.safetensors``, ``me-2.safetensors``, …; otherwise the very name, taken or not.

    Raises:
        UsageError: the name is none, or leads out of the folder.
    """
    root = Path(folder_paths.get_folder_paths("loras")[0]).resolve()
    stem = name.strip().removesuffix(SUFFIX)
    if not Path(stem).name or not stem.isprintable():
        raise UsageError(f"expected a name for the LoRA's file, such as people/me, got {name!r}")
    path = (root / f"{stem}{SUFFIX}").resolve()
    if not path.is_relative_to(root):
        raise UsageError(f"{name!r}: expected a name within ComfyUI's loras folder, got one that leads out of it")
    path.parent.mkdir(parents=True, exist_ok=True)
    if if_exists != NUMBER:
        return path
    numbered = (path.with_name(f"{path.stem}-{n}{SUFFIX}") for n in count(2))
    return path if not path.exists() else next(p for p in numbered if not p.exists())


def listed_as(path: Path) -> str:
    """How ComfyUI's lists call a file of the folder: what Load LoRA takes as ``lora_name``."""
    return str(path.relative_to(Path(folder_paths.get_folder_paths("loras")[0]).resolve()))
