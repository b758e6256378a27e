"""Places to write to, checked before any work is done: only a regular file is ever replaced."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from lorasynth.errors import OutputExistsError, UsageError
from lorasynth.storage.system import AT_ONCE, NO_LINK

_FILE, _LINK = "a file", "a link"
_KINDS = {
    stat.S_IFREG: _FILE, stat.S_IFLNK: _LINK, stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
}  # fmt: skip
_LONGEST_NAME = 255  # bytes, of every file system in use


def require_new_output(path: str | Path, *, force: bool = False, suffix: str | None = None) -> Path:
    """Check that a file can be written at ``path`` before any work is done for it.

    Only a regular file is ever replaced. A device, pipe, socket, folder or link is refused, with ``force`` and for root too.

    Args:
        path: where the file shall be.
        force: whether a file that is there may be replaced.
        suffix: how the name has to end, such as ".png".

    Returns:
        The path.

    Raises:
        OutputExistsError: a file is there and ``force`` is not given.
        UsageError: it cannot be a file's name, is no file, ends otherwise, or its folder is missing or cannot be written.
    """
    path = Path(path)
    if str(path) == "-":
        raise UsageError("-: expected a file name to write, got '-'; only --json writes to standard output")
    is_there = require_replaceable(path)
    if suffix is not None and path.suffix.lower() != suffix:
        got = repr(path.suffix) if path.suffix else "no ending"
        raise UsageError(f"{path!s:.80}: expected a name that ends in {suffix}, got {got}")
    if is_there and not force:
        raise OutputExistsError(f"{path}: exists already; choose another name or give --force")
    folder = path.parent
    if not os.path.isdir(folder):
        raise UsageError(f"{path!s:.80}: its folder {folder!s:.80} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: its folder {folder} cannot be written; choose another or change its permissions")
    return path


def require_new_lora(path: str | Path, format: str, *, force: bool = False) -> Path:
    """Check that a LoRA can be written, before any work is done for it: a file, or PEFT's folder.

    Under another ending, programs would not find the file, or take it for a pickle.

    Raises:
        OutputExistsError: something is there and ``force`` is not given.
        UsageError: it cannot be written there, or a file's name does not end in ``.safetensors``.
    """
    if format == "peft":
        return require_new_adapter(path, force=force)
    return require_new_output(path, force=force, suffix=".safetensors")


def require_new_adapter(path: str | Path, *, force: bool = False) -> Path:
    """Check that a folder of an adapter's files can be written, before any work is done for it.

    Raises:
        OutputExistsError: something is in it and ``force`` is not given.
        UsageError: the path is a file's, or its parent folder is missing or cannot be written.
    """
    path = Path(path)
    if os.path.isfile(path) or path.suffix == ".safetensors":
        raise UsageError(f"{path}: expected a folder for format 'peft', got a file's name; leave the ending out")
    if not os.path.isdir(path):
        return require_new_output(path)
    if any(require_output_folder(path).iterdir()) and not force:
        raise OutputExistsError(f"{path}: is not empty; choose another folder or give --force")
    return path


def require_output_folder(path: str | Path) -> Path:
    """Check that a folder is there to write into, or that one can be made, before any work is done for it.

    Raises:
        UsageError: something else is there, a name is too long, or its place cannot be written.
    """
    path = Path(path)
    there = path
    while _kind(there) is None and there != there.parent:
        if len(os.fsencode(there.name)) > _LONGEST_NAME:
            raise UsageError(
                f"{path!s:.80}: cannot be a folder ({os.strerror(errno.ENAMETOOLONG)}); choose another name"
            )
        there = there.parent
    if not os.path.isdir(there):
        raise UsageError(f"{path!s:.80}: expected a folder, got {_kind(there)} at {there!s:.80}; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path!s:.80}: {there!s:.80} cannot be written; choose another place or change its permissions"
        )
    return path


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those above it, where there is none yet.

    Raises:
        UsageError: it cannot be made; see `require_output_folder`.
    """
    path = require_output_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made ({error.strerror}); choose another place") from None
    return path


def open_lock(path: Path) -> IO[str]:
    """Open a lock's file for reading and writing, made where there is none. What is in it stays.

    Raises:
        OSError: it cannot be opened, is a link or no file, or is another file under a second name.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK | AT_ONCE, 0o666)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EPERM, f"its {path.name} is no file of its own, remove that", str(path))
    return os.fdopen(handle, "r+", encoding="utf-8", errors="replace")


def require_replaceable(path: Path) -> bool:
    """Whether a regular file is at ``path``, which may be replaced. False where nothing is.

    Raises:
        UsageError: something else is there, or nothing can be.
    """
    kind = _kind(path)
    if kind is None or kind == _FILE:
        return kind is not None
    fix = "name the file that it leads to" if kind == _LINK else "choose the name of a file"
    raise UsageError(f"{path}: expected a file name to write, got {kind}; {fix}")


def _kind(path: Path) -> str | None:
    """In words, what is at a path, itself and not where it leads to. None where nothing is."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, a NUL in it, a folder that may not be entered
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(f"{path!s:.80}: cannot be written ({reason}); choose another name") from None
    return _KINDS.get(stat.S_IFMT(mode), "a device")
