"""A file's bytes and tensors, read once and into memory, after its header was checked (`header`).

Files are never mapped: a file that changes under a mapping kills the process.
"""

import io
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lorasynth.storage.arrays import TYPES, Array
from lorasynth.storage.faults import FaultyFileError, refuse
from lorasynth.storage.header import MAX_HEADER_BYTES, parse_header
from lorasynth.storage.system import AT_ONCE

MAX_FILE_MB = 4_096
_PAGES = 65_536  # bytes from which a tensor gets pages of its own
_SMALL = 2**24  # bytes of a file that is read in one piece


def read_bytes(path: Path, max_file_mb: int = MAX_FILE_MB) -> bytes:
    """All bytes of a regular file of bounded size.

    Raises:
        FaultyFileError: missing, unreadable, not a regular file, too large, or changed while it was read.
    """
    with _at_rest(path, max_file_mb) as (file, size):
        content = file.read(size + 1)
        if len(content) != size:
            raise _changed()
    return content


def read_start(path: Path, num_bytes: int, max_file_mb: int = MAX_FILE_MB) -> bytes:
    """The first bytes of a regular file of bounded size.

    Raises:
        FaultyFileError: missing, unreadable, not a regular file, too large, or changed while it was read.
    """
    with _at_rest(path, max_file_mb) as (file, _):
        return file.read(num_bytes)


def read_header(path: str | Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Tensor entries (dtype, shape, data_offsets) and metadata of a safetensors file, checked against the format and our limits.

    Raises:
        LoRAFileError: naming the file and its first fault.
    """
    try:
        with _at_rest(Path(path), MAX_FILE_MB) as (file, size):
            return _header(file, size)
    except FaultyFileError as error:
        raise FaultyFileError(error.fault, path) from None


def read_tensors(path: Path, max_file_mb: int = MAX_FILE_MB) -> tuple[dict[str, Array], dict[str, str]]:
    """A safetensors file's tensors, in the order of its data, and its metadata: in memory of the file's size.

    Raises:
        FaultyFileError: as `read_bytes`, or a fault of the header.
    """
    with _at_rest(path, max_file_mb) as (file, size):
        entries, metadata = _header(file, size)
        if size <= _SMALL:
            data = bytearray(sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in entries.values()))
            if file.readinto(data) != len(data):
                raise _changed()
            return _views(entries, data), metadata
        return {key: _tensor(key, entry, file.readinto) for key, entry in entries.items()}, metadata


def tensors_of(content: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """`read_tensors` of a file's bytes.

    Raises:
        FaultyFileError: a fault of the header.
    """
    entries, metadata = parse_header(content)
    start = 8 + int.from_bytes(content[:8], "little")
    return _views(entries, bytearray(memoryview(content)[start:])), metadata


def _header(file: io.BufferedReader, size: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The header of an open file of that size. After it the file stands where the data begins."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    # A length that cannot be is another format's first bytes: some more of them tell which.
    return parse_header(start + file.read(length if length <= min(size, MAX_HEADER_BYTES) else 64), size)


def _views(entries: dict[str, dict[str, Any]], data: bytearray) -> dict[str, Array]:
    """The tensors of a file whose data are in memory."""
    views = {}
    for key, entry in entries.items():
        shape, dtype = entry["shape"], TYPES[entry["dtype"]]
        if count := math.prod(shape):
            views[key] = np.frombuffer(data, dtype, count, entry["data_offsets"][0]).reshape(shape)
        else:
            views[key] = _empty(key, shape, dtype)
    return views


def _empty(key: str, shape: list[int], dtype: np.dtype[Any]) -> Array:
    try:
        return np.empty(shape, dtype)
    except ValueError:  # sizes beside a zero that no memory has
        raise refuse("bad-shape", f"{key} shape", "sizes of a tensor", f"{shape}", "get the file again") from None


def _tensor(key: str, entry: dict[str, Any], read: Callable[[bytearray | mmap.mmap], int]) -> Array:
    """The next tensor.

    NOTE: a large one in pages of its own, which go back to the system with it. What malloc gives, it mostly keeps.
    """
    first, last = entry["data_offsets"]
    dtype, size = TYPES[entry["dtype"]], last - first
    if size == 0:
        return _empty(key, entry["shape"], dtype)
    place = mmap.mmap(-1, size) if size >= _PAGES else bytearray(size)
    if read(place) != size:
        raise _changed()
    return np.frombuffer(place, dtype).reshape(entry["shape"])


def _changed() -> FaultyFileError:
    return refuse("changed", "file", "a file at rest", "one that changed while it was read", "wait for its writer")


@contextmanager
def _at_rest(path: Path, max_file_mb: int) -> Iterator[tuple[io.BufferedReader, int]]:
    """A regular file, open, and its size. An error if it changed until it is closed."""
    with _refused(path):
        _require_regular(path.stat(), max_file_mb)  # first: opening a device can already do something
        file = os.fdopen(os.open(path, os.O_RDONLY | AT_ONCE), "rb")  # opening never waits
    with file:
        before = os.fstat(file.fileno())
        _require_regular(before, max_file_mb)
        with _refused(path):
            yield file, before.st_size
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _changed()


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the system says of a file, in our words."""
    try:
        yield
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        raise refuse("not-found", "file", "a LoRA file", "nothing there", "check the path") from None
    except OSError as error:
        got = f"{error.strerror}{_owner_and_mode(path)}"
        raise refuse("unreadable", "file", "a readable file", got, "check path and rights") from None


def _owner_and_mode(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f" (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):03o})"


def _require_regular(status: os.stat_result, max_file_mb: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise refuse("not-a-file", "file", "a regular file", kind, "name a .safetensors file")
    if status.st_size > max_file_mb * 2**20:
        size = f"{status.st_size / 2**20:.0f} MB"
        raise refuse("too-large", "file", f"at most {max_file_mb} MB", size, "is this a whole checkpoint?")
