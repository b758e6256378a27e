"""The header of a safetensors file, checked entry by entry: what the format promises and the library does not check as well.

The library accepts doubled keys, names with control characters and 100,000 empty tensors, and names no file in its errors.
"""

import json
import math
import re
from collections import Counter
from functools import lru_cache
from typing import Any

from lorasynth.storage.arrays import TYPES
from lorasynth.storage.faults import refuse

# NOTE: kohya writes the tags of all photos into the metadata, ModelSpec a thumbnail: tens of MB are sound. The part about tensors
# takes many times its size once it is parsed, so it has a bound of its own. LoHa's five tensors a module make 5,290 of SDXL with
# its text encoders.
MAX_HEADER_BYTES = 64_000_000
MAX_TENSORS_BYTES = 4_000_000
MAX_KEYS = 16_384
_REMEMBERED = 1 << 18  # bytes of a table of tensors that is remembered: files of a folder mostly have one and the same
# Names of tensors; OneTrainer's and A1111's embeddings have a user's word, or a star, in theirs.
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,300}|bundle_emb\.[^/\\]{1,280}|string_to_param\.\*")
_FIELDS = {"dtype", "shape", "data_offsets"}
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_METADATA = re.compile(rb'"__metadata__"\s*+:\s*+(?=\{)')
_PAIR = re.compile(rb"[{,]\s*+" + _STRING + rb"\s*+:\s*+" + _STRING + rb"\s*+", re.DOTALL)
_SURROGATE = re.compile("[\\ud800-\\udfff]")
_AGAIN = "the file is damaged; get it again"
_IS_LORA = "is this a LoRA?"
_BY_LIBRARY = "save it again, with the safetensors library"
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


def parse_header(content: bytes, num_bytes: int | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Tensor entries and metadata of a safetensors file's bytes.

    Args:
        content: all of them, or the first ones, in which the header ends.
        num_bytes: how many the file has; by default that many as there are.

    Returns:
        key -> {"dtype", "shape", "data_offsets"} in the order of the data, and the ``__metadata__``. Entries are shared with
        other files of the same header, and not to be changed.

    Raises:
        FaultyFileError: the first thing that breaks the format or our limits.
    """
    num_bytes = len(content) if num_bytes is None else num_bytes
    if num_bytes < 8:
        raise refuse("too-short", "file", "at least 8 bytes", f"{num_bytes} bytes", _AGAIN)
    length, limit = int.from_bytes(content[:8], "little"), min(num_bytes - 8, MAX_HEADER_BYTES)
    if length > limit:
        # NOTE: only now can the first bytes be told from a header's length: 0x80, say, begins pickles and good files alike.
        for magic, kind, fix in _OTHER_KINDS:
            if re.match(magic, content):
                raise refuse("other-kind", "file", "safetensors", kind, fix)
        fix = _AGAIN if length > num_bytes - 8 else _IS_LORA
        raise refuse("header-size", "header", f"at most {limit} bytes", f"{length} in a file of {num_bytes}", fix)
    text = content[8 : 8 + length]
    first, last = _metadata_span(text)
    if length - (last - first) > MAX_TENSORS_BYTES:
        got = f"{length - (last - first)}"
        raise refuse("header-size", "header", f"at most {MAX_TENSORS_BYTES} bytes beside its metadata", got, _IS_LORA)
    # Metadata, which may be long and differs from file to file, apart from the table of tensors, which may not and does not.
    said = _parse_json(text[first:last], first) if last > first else {}
    _check_metadata(said)
    table = text[:first] + b"{}" * (last > first) + text[last:]
    read = _read_table if len(table) <= _REMEMBERED else _read_table.__wrapped__
    entries, metadata = read(table, num_bytes - 8 - length)
    return dict(entries), said or dict(metadata)


@lru_cache(8)
def _read_table(text: bytes, num_data_bytes: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The entries in the order of the data, and the metadata where it is not apart. Nobody may change what this returns."""
    header = _parse_json(text, 0)
    metadata = header.pop("__metadata__", {})
    _check_metadata(metadata)
    if not header:
        raise refuse("no-tensors", "header", "tensors", "none", "the file is empty of weights; get it again")
    if len(header) > MAX_KEYS:
        raise refuse("too-many-keys", "header", f"at most {MAX_KEYS} tensors", str(len(header)), _IS_LORA)
    for key, entry in header.items():
        _check_entry(key, entry)
    ordered = dict(sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])))
    _check_offsets(ordered, num_data_bytes)
    return ordered, metadata


def _metadata_span(text: bytes) -> tuple[int, int]:
    """Where the metadata's object begins and ends; 0 twice if there is none, or none of texts alone.

    NOTE: found by its text, before anything is parsed. A name within an entry that looks the same makes the entry faulty.
    """
    if not (found := _METADATA.search(text)):
        return 0, 0
    end, pairs = found.end(), 0
    while pair := _PAIR.match(text, end):
        end, pairs = pair.end(), pairs + 1
        if pairs > MAX_KEYS:
            raise refuse("too-many-keys", "__metadata__", f"at most {MAX_KEYS} texts", "more", _IS_LORA)
    return (found.end(), end + 1) if pairs and text[end : end + 1] == b"}" else (0, 0)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise refuse("bad-metadata", "__metadata__", "an object", type(metadata).__name__, _BY_LIBRARY)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise refuse("bad-metadata", f"__metadata__.{key}", "text", type(value).__name__, _BY_LIBRARY)
        if _SURROGATE.search(key) or _SURROGATE.search(value):
            raise refuse("bad-metadata", f"__metadata__.{key}", "Unicode", "half a surrogate pair", _BY_LIBRARY)


def _parse_json(text: bytes, start: int) -> dict[str, Any]:
    """A JSON object that begins at byte ``start`` of the header."""
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        got = f"another byte at {error.start + start + 8}"
        raise refuse("not-utf8", "header", "UTF-8", got, _AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise refuse("bad-header", "header", "JSON", f"{error}" or "nothing", _AGAIN) from None
    if not isinstance(header, dict):
        raise refuse("bad-header", "header", "a JSON object", type(header).__name__, _AGAIN)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise refuse("duplicate-key", twice, "each key once", "the key twice", _BY_LIBRARY)
    return record


def _no_constant(word: str) -> None:
    raise ValueError(f"the number {word}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_entry(key: str, entry: Any) -> None:
    """One tensor's name, dtype, shape and offsets, each by itself and against each other."""
    if not (_KEY.fullmatch(key) and key.isprintable()):
        expected = "a name of at most 300 letters, digits, '_', '.' and '-'"
        raise refuse(
            "illegal-key",
            key,
            expected,
            f"{len(key)} characters, some others",
            "save it again with the program that made it",
        )
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        got = ", ".join(sorted(map(str, entry))) if isinstance(entry, dict) else type(entry).__name__
        raise refuse("bad-entry", key, "dtype, shape and data_offsets", got or "nothing", _BY_LIBRARY)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise refuse(
            "dtype", key, "dtype F16, BF16 or F32", f"{dtype}", "get it in one of these from where it was made"
        )
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise refuse("bad-shape", f"{key} shape", "up to 8 whole numbers", f"{shape}", _BY_LIBRARY)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise refuse("bad-offsets", f"{key} data_offsets", "two whole numbers", f"{offsets}", _BY_LIBRARY)
    begin, end = offsets
    if begin > end:
        raise refuse("bad-offsets", f"{key} data_offsets", "begin <= end", f"{begin} > {end}", _BY_LIBRARY)
    size = math.prod(shape) * TYPES[dtype].itemsize
    if size != end - begin:
        raise refuse("size", key, f"{size} bytes for {dtype} {shape}", f"{end - begin}", _BY_LIBRARY)


def _check_offsets(entries: dict[str, dict[str, Any]], num_data_bytes: int) -> None:
    """The tensors cover the data from its first byte to its last: no overlap, no hole, nothing missing, nothing behind."""
    end, last = 0, "the header"
    for key, entry in entries.items():
        first = entry["data_offsets"][0]
        if first < end:
            raise refuse("overlap", key, f"data from byte {end} on", f"{first}, inside {last}", _AGAIN)
        if first > end:
            raise refuse(
                "hole", key, f"data from byte {end} on", f"{first}: the bytes between belong to no tensor", _AGAIN
            )
        end, last = entry["data_offsets"][1], key
    if end > num_data_bytes:
        raise refuse("truncated", last, f"{end} bytes of data", f"{num_data_bytes}: the file is cut short", _AGAIN)
    if end < num_data_bytes:
        extra = f"{num_data_bytes - end} bytes more behind the last tensor"
        raise refuse("trailing-bytes", "file", f"{end} bytes of data", extra, "something is appended; get it again")
