"""Files of models, zoos and runs, read strictly: regular, of bounded size, and what they say held against a type.

A folder from the hub is as hostile as a file. A pipe would be waited on for ever, /dev/zero read to the end of memory, and JSON
nested 200,000 deep end the process. A link is followed, for the hub's cache is made of links, but only to a regular file.
"""

import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from lorasynth.errors import ModelError
from lorasynth.storage.schema import ANYTHING, Misfit, Type, fit
from lorasynth.storage.system import AT_ONCE

MAX_JSON_MB = 64
"""A run's history of many thousand lines has some."""
MAX_FILE_MB = 1 << 16
"""What is larger is not even hashed."""


def open_regular(path: str | Path, max_mb: int = MAX_FILE_MB) -> io.BufferedReader:
    """Open a regular file of bounded size for reading. Opening never waits.

    Raises:
        ModelError: it is missing, unreadable, too large, or no file.
    """
    try:
        _require_regular(path, os.stat(path), max_mb)  # first: opening a device can already do something
        file = os.fdopen(os.open(path, os.O_RDONLY | AT_ONCE), "rb")
        _require_regular(path, os.fstat(file.fileno()), max_mb)
    except FileNotFoundError:
        raise ModelError(f"{path}: not found; is this the right folder?") from None
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, got {error.strerror!r}; check path and rights") from None
    except ValueError as error:  # a NUL in the name, or half a surrogate pair
        raise ModelError(f"{path!s:.80}: expected a file's name, got {error}; check the path") from None
    return file


def _require_regular(path: str | Path, status: os.stat_result, max_mb: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ModelError(f"{path}: expected a regular file, got {kind}; put the file itself there")
    if status.st_size > max_mb * 2**20:
        raise ModelError(f"{path}: expected at most {max_mb:g} MB, got {status.st_size / 2**20:.0f} MB; get it again")


def read_bytes(path: str | Path, max_mb: int = MAX_JSON_MB) -> bytes:
    """All bytes of a regular file of bounded size.

    Raises:
        ModelError: it is missing, unreadable, too large, or no file.
    """
    with open_regular(path, max_mb) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: str | Path, max_mb: int = MAX_JSON_MB) -> str:
    """A file's text, in UTF-8 whatever the locale.

    Raises:
        ModelError: it is missing, unreadable, too large, no file, or not UTF-8.
    """
    try:
        return read_bytes(path, max_mb).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: expected UTF-8, got another byte at {error.start}; get it again") from None


def read_json(path: str | Path, kind: Type = ANYTHING, max_mb: int = MAX_JSON_MB) -> Any:
    """What a JSON file says.

    Args:
        path: the file.
        kind: what it has to be; see `lorasynth.storage.schema`.
        max_mb: a larger file is refused.

    Raises:
        ModelError: it cannot be read, is not JSON, or says something else.
    """
    try:
        return parse_json(read_text(path, max_mb), kind)
    except Misfit as error:
        raise ModelError(f"{path}: {error}; get it again") from None


def parse_json(said: str, kind: Type = ANYTHING, place: str = "") -> Any:
    """What JSON text says.

    Raises:
        Misfit: it is not JSON, says a key twice or half a surrogate pair, or something else than its type.
    """
    try:
        value = json.loads(said, object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Misfit(
            place, "JSON", f"{error}" if not isinstance(error, UnicodeEncodeError) else "half a letter"
        ) from None
    return fit(kind, value, place)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key that stands twice")
    return found


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hex.

    Raises:
        ModelError: it is missing, unreadable, or no file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
