"""The safetensors container, read strictly: what the format promises and the library does not check as well.

The library accepts doubled keys, names with control characters, a header of 100 MB and 100,000 empty tensors, and names no file
in its errors. Here the header is checked first, entry by entry, and the file is read into memory, never mapped: a file that
changes under a mapping kills the process.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lorasynth.lora.faults import refuse

MAX_HEADER_BYTES = 1_000_000
MAX_KEYS = 4_096
MAX_FILE_MB = 4_096
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,300}")
_AGAIN = "the file is damaged; get it again"
_NO_PICKLE = "pickles are never opened here; get a .safetensors file, or make one with `lorasynth import-legacy`"
_OTHER_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the file itself"),
    (rb"PK\x03\x04", "a zip, perhaps a PyTorch checkpoint", _NO_PICKLE),
    (
        rb"\x80[\x02-\x05]|\([dl]p|[}\])]q\x00|c[\w.]+\n\w+\n",
        "a Python pickle",
        _NO_PICKLE,
    ),
    (rb"\s*<[ -~\s]{6}", "HTML, a failed download perhaps", "get the file again"),
    (rb"\s*[{\[][ -~\s]{6}", "JSON, perhaps the index of a sharded model", "name a single .safetensors file"),
    (rb"GGUF", "a GGUF file", "get the LoRA as .safetensors"),
    (rb"\x08[\x01-\x0f][\x12\x3a]", "an ONNX model", "get the LoRA as .safetensors"),
)


def read_bytes(path: Path, max_file_mb: int = MAX_FILE_MB) -> bytes:
    """All bytes of a regular file of bounded size.

    Raises:
        FaultyFileError: missing, unreadable, not a regular file, too large, or changed while it was read.
    """
    with _refused(path):
        _require_regular(path.stat(), max_file_mb)
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            _require_regular(before, max_file_mb)
            content = file.read(before.st_size + 1)
            after = os.fstat(file.fileno())
    if len(content) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise refuse("changed", "file", "a file at rest", "one that changed while it was read", "wait for its writer")
    return content


def read_start(path: Path, num_bytes: int, max_file_mb: int = MAX_FILE_MB) -> bytes:
    """The first bytes of a regular file of bounded size.

    Raises:
        FaultyFileError: missing, unreadable, not a regular file, or too large.
    """
    with _refused(path):
        _require_regular(path.stat(), max_file_mb)
        with path.open("rb") as file:
            return file.read(num_bytes)


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


def parse_header(content: bytes, num_bytes: int | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Tensor entries and metadata of a safetensors file's bytes.

    Args:
        content: all of them, or the first ones, in which the header ends.
        num_bytes: how many the file has; by default that many as there are.

    Returns:
        key -> {"dtype", "shape", "data_offsets"} in the order of the data, and the ``__metadata__``.

    Raises:
        FaultyFileError: the first thing that breaks the format or our limits.
    """
    num_bytes = len(content) if num_bytes is None else num_bytes
    if len(content) < 8:
        raise refuse("too-short", "file", "at least 8 bytes", f"{len(content)} bytes", _AGAIN)
    length, limit = int.from_bytes(content[:8], "little"), min(len(content) - 8, MAX_HEADER_BYTES)
    if length > limit:
        # NOTE: only now can the first bytes be told from a header's length: 0x80, say, begins pickles and good files alike.
        for magic, kind, fix in _OTHER_KINDS:
            if re.match(magic, content):
                raise refuse("other-kind", "file", "safetensors", kind, fix)
        raise refuse("header-size", "header", f"at most {limit} bytes", f"{length} in a file of {num_bytes}", _AGAIN)
    header = _parse_json(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise refuse("bad-metadata", "__metadata__", "an object", type(metadata).__name__, "write the file again")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise refuse("bad-metadata", f"__metadata__.{key}", "text", type(value).__name__, "write the file again")
        if re.search("[\\ud800-\\udfff]", key + value):
            raise refuse(
                "bad-metadata", f"__metadata__.{key}", "Unicode", "half a surrogate pair", "write the file again"
            )
    if not header:
        raise refuse("no-tensors", "header", "tensors", "none", "the file is empty of weights; get it again")
    if len(header) > MAX_KEYS:
        raise refuse("too-many-keys", "header", f"at most {MAX_KEYS} tensors", str(len(header)), "is this a LoRA?")
    for key, entry in header.items():
        _check_entry(key, entry)
    ordered = dict(sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])))
    _check_offsets(ordered, num_bytes - 8 - length)
    return ordered, metadata


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise refuse("not-utf8", "header", "UTF-8", f"another byte at {error.start + 8}", _AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise refuse("bad-header", "header", "JSON", f"{error}" or "nothing", _AGAIN) from None
    if not isinstance(header, dict):
        raise refuse("bad-header", "header", "a JSON object", type(header).__name__, _AGAIN)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise refuse("duplicate-key", key, "each key once", "the key twice", "write the file again")
        record[key] = value
    return record


def _no_constant(word: str) -> None:
    raise ValueError(f"the number {word}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_entry(key: str, entry: Any) -> None:
    """One tensor's name, dtype, shape and offsets, each by itself and against each other."""
    if not _KEY.fullmatch(key):
        expected = "a name of at most 300 letters, digits, '_', '.' and '-'"
        raise refuse("illegal-key", key, expected, f"{len(key)} characters, some others", "rename the tensor")
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or set(entry) != fields:
        got = ", ".join(sorted(map(str, entry))) if isinstance(entry, dict) else type(entry).__name__
        raise refuse("bad-entry", key, "dtype, shape and data_offsets", got or "nothing", "write the file again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse("dtype", key, "dtype F16, BF16 or F32", f"{dtype}", "save it as F16")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise refuse("bad-shape", f"{key} shape", "up to 8 whole numbers", f"{shape}", "write the file again")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise refuse("bad-offsets", f"{key} data_offsets", "two whole numbers", f"{offsets}", "write the file again")
    begin, end = offsets
    if begin > end:
        raise refuse("bad-offsets", f"{key} data_offsets", "begin <= end", f"{begin} > {end}", "write the file again")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if size != end - begin:
        raise refuse("size", key, f"{size} bytes for {dtype} {shape}", f"{end - begin}", "write the file again")


def _check_offsets(entries: dict[str, dict[str, Any]], num_data_bytes: int) -> None:
    """The tensors cover the data from its first byte to its last: no overlap, no hole, nothing missing, nothing behind."""
    end, last = 0, "the header"
    for key, entry in entries.items():
        first = entry["data_offsets"][0]
        if first < end:
            raise refuse("overlap", key, f"data from byte {end} on", f"{first}, inside {last}", _AGAIN)
        if first > end:
            raise refuse("hole", key, f"data from byte {end} on", f"{first}: bytes between are nobody's", _AGAIN)
        end, last = entry["data_offsets"][1], key
    if end > num_data_bytes:
        raise refuse("truncated", last, f"{end} bytes of data", f"{num_data_bytes}: the file is cut short", _AGAIN)
    if end < num_data_bytes:
        extra = f"{num_data_bytes - end} bytes more behind the last tensor"
        raise refuse("trailing-bytes", "file", f"{end} bytes of data", extra, "something is appended; get it again")
