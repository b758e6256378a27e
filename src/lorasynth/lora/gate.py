"""The strict gate: every LoRA file that somebody else may have written is read here, or refused with a reason.

The header is parsed and checked before a tensor is touched; the file is read into memory, never mapped. Loaders of the field fill
missing halves with random numbers, skip what does not fit and pass NaN on; here each of these is an error that names the file,
the key, what was expected and what came.
"""

import json
import math
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from lorasynth.errors import LoRAFileError
from lorasynth.files import read_json
from lorasynth.lora import formats

MAX_HEADER_BYTES = 1_000_000
MAX_KEYS = 4_096
MAX_FILE_MB = 4_096
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,300}")
_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the file itself"),
    (b"PK\x03\x04", "a zip, perhaps a PyTorch checkpoint: pickles are never opened; convert it to safetensors"),
    (b"\x80", "a Python pickle: pickles are never opened; convert it to safetensors"),
    (b"<", "HTML: the download failed, get the file again"),
    (b"GGUF", "GGUF, which is not a LoRA format we read"),
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong in a file; ``code`` is stable."""

    code: str
    key: str
    expected: str
    actual: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a LoRA file says and is."""

    path: str
    format: str
    base: str
    rank: list[int]
    num_modules: int
    modules: list[str]
    norm: float
    metadata: dict[str, str]
    faults: list[Fault] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _refuse(path: Path, code: str, key: str, expected: str, actual: str, fix: str) -> LoRAFileError:
    error = LoRAFileError(f"{path}: {key}: expected {expected}, got {actual}. Fix: {fix}")
    error.code = code
    return error


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of bounded size.

    Raises:
        LoRAFileError: missing, not a regular file, unreadable, too large, or another kind of file by its first bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(path, "not-a-file", "file", "a regular file", "a folder or device", "name a .safetensors file")
        if status.st_size > MAX_FILE_MB * 2**20:
            size = f"{status.st_size / 2**20:.0f} MB"
            raise _refuse(path, "too-large", "file", f"at most {MAX_FILE_MB} MB", size, "is this a whole checkpoint?")
        content = path.read_bytes()
    except OSError as error:
        raise _refuse(path, "unreadable", "file", "a readable file", str(error.strerror), "check the path") from None
    if len(content) < 8:
        raise _refuse(path, "too-short", "file", "at least 8 bytes", f"{len(content)} bytes", "get the file again")
    for magic, what in _OTHER_FILES:
        if content.startswith(magic):
            kind, _, fix = what.partition(": ")
            raise _refuse(path, "other-kind", "file", "safetensors", kind, fix or "convert it to safetensors")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [k for k, _ in pairs]
        raise KeyError(next(k for k in names if names.count(k) > 1))
    return record


def read_header(path: Path, content: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Tensor entries and metadata of a safetensors file's bytes, checked against the format and our limits.

    Raises:
        LoRAFileError: naming the first fault.
    """
    length = int.from_bytes(content[:8], "little")
    if length > min(len(content) - 8, MAX_HEADER_BYTES):
        limit = f"at most {min(len(content) - 8, MAX_HEADER_BYTES)} bytes"
        raise _refuse(path, "header-size", "header", limit, f"{length}", "not safetensors, or cut short; get it again")
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except KeyError as error:
        raise _refuse(path, "duplicate-key", str(error), "each key once", "twice", "write the file again") from None
    except (ValueError, RecursionError) as error:
        raise _refuse(path, "bad-header", "header", "JSON", f"{error}"[:80], "get the file again") from None
    if not isinstance(header, dict):
        raise _refuse(path, "bad-header", "header", "an object", type(header).__name__, "get the file again")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise _refuse(path, "bad-metadata", "__metadata__", "strings", "other values", "write the file again")
    if not header:
        raise _refuse(path, "no-tensors", "header", "tensors", "none", "this file holds nothing")
    if len(header) > MAX_KEYS:
        raise _refuse(path, "too-many-keys", "header", f"at most {MAX_KEYS} tensors", str(len(header)), "not a LoRA")
    spans = []
    for key, entry in header.items():
        spans.append(_check_entry(path, key, entry))
    end = 0
    for first, last, key in sorted(spans):
        if first != end:
            what = "overlapping" if first < end else "unused bytes before it"
            raise _refuse(path, "offsets", key, f"data to begin at byte {end}", f"{first} ({what})", "get it again")
        end = last
    if end != len(content) - 8 - length:
        got = f"{len(content) - 8 - length}"
        raise _refuse(path, "size", "file", f"{end} bytes of data", got, "cut short or padded; get it again")
    return header, metadata


def _check_entry(path: Path, key: str, entry: Any) -> tuple[int, int, str]:
    shown = ascii(key)[1:-1][:120]
    if not _KEY.fullmatch(key):
        raise _refuse(path, "illegal-key", shown, "letters, digits, '_', '.', '-'", "other characters", "rename it")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refuse(path, "bad-entry", shown, "dtype, shape, data_offsets", f"{entry}"[:60], "write the file again")
    if entry["dtype"] not in _BYTES:
        raise _refuse(path, "dtype", shown, "F16, BF16, F32 or F64", str(entry["dtype"])[:20], "save it as F16")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in numbers) or offsets[0] > offsets[1]:
        raise _refuse(path, "bad-entry", shown, "whole numbers, in order", f"{shape} {offsets}"[:60], "write it again")
    if 0 in shape:
        raise _refuse(path, "zero-size", shown, "no dimension of 0", str(shape), "the tensor is empty; write it again")
    if math.prod(shape) * _BYTES[entry["dtype"]] != offsets[1] - offsets[0]:
        wanted = f"{math.prod(shape) * _BYTES[entry['dtype']]} bytes for shape {shape}"
        raise _refuse(path, "shape", shown, wanted, f"{offsets[1] - offsets[0]}", "write the file again")
    return offsets[0], offsets[1], key


def _check_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Values and shapes, before any converter sees them."""
    for key, tensor in tensors.items():
        if any(word in key for word in ("hada_", "lokr_", "dora_scale", "lora_magnitude", ".diff", "set_weight")):
            raise _refuse(path, "kind", key, "an ordinary LoRA", "LoHa, LoKr, DoRA or a whole weight", "not supported")
        if key.endswith(".alpha"):
            if tensor.numel() != 1:
                raise _refuse(path, "alpha", key, "one number", f"shape {tuple(tensor.shape)}", "write the file again")
            alpha = float(tensor)
            if not (math.isfinite(alpha) and 1e-3 <= alpha <= 1e6):
                raise _refuse(path, "alpha", key, "a number from 1e-3 to 1e6", f"{alpha}", "set alpha to the rank")
            continue
        if not tensor.is_floating_point():
            raise _refuse(path, "dtype", key, "floating point", str(tensor.dtype), "save it as F16")
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            where = tuple(int(i) for i in (~torch.isfinite(tensor)).nonzero()[0])
            got = f"{bad} NaN or infinite, the first at {where}"
            raise _refuse(path, "not-finite", key, "finite values", got, "the training diverged; do not use this file")
        if tensor.dim() != 2:
            raise _refuse(path, "dims", key, "2 dimensions", f"{tuple(tensor.shape)}", "only linear layers are supported")


def read_lora(path: str | Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str], Inspection]:
    """Read a LoRA file, or a PEFT folder, of any format.

    Returns:
        module name -> (lora_A (R, I), lora_B (O, R)) in float32 with the scaling folded in; the header's metadata; and what was
        seen.

    Raises:
        LoRAFileError: naming file, key, expected and actual, of the first fault.
    """
    path = Path(path)
    extra: dict[str, str] = {}
    file = path
    if path.is_dir():
        if not (path / "adapter_config.json").is_file():
            raise _refuse(path, "not-a-file", "folder", "a PEFT folder with adapter_config.json", "none", "name a file")
        extra["adapter_config"] = json.dumps(read_json(path / "adapter_config.json"))
        file = path / "adapter_model.safetensors"
    content = read_bytes(file)
    _, metadata = read_header(file, content)
    tensors = load(content)
    kind = formats.detect(list(tensors))
    if kind is None:
        example = next(iter(tensors))
        raise _refuse(file, "no-lora", example, "LoRA keys (lora_A, lora_down …)", "none", "is this a LoRA file?")
    text_keys = [k for k in tensors if k.startswith(("text_encoder", "lora_te"))]
    if text_keys:
        raise _refuse(file, "text-encoder", text_keys[0], "UNet modules only", "a text encoder's", "train it UNet-only")
    _check_tensors(file, tensors)
    _check_pairs(file, tensors)
    try:
        factors = formats.READERS[kind](tensors, {**metadata, **extra})
    except LoRAFileError as error:
        raise LoRAFileError(f"{file}: {error}") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise _refuse(file, "unreadable", "keys", f"a {kind} LoRA", f"{error}"[:120], "is it for another model?") from None
    factors = {name: (A.float(), B.float()) for name, (A, B) in factors.items()}
    for name, (A, B) in factors.items():
        if A.shape[0] != B.shape[1]:
            ranks = f"{A.shape[0]} and {B.shape[1]}"
            raise _refuse(file, "rank", name, "one rank in lora_A and lora_B", ranks, "the file is broken; get it again")
        if A.shape[0] > min(A.shape[1], B.shape[0]):
            most = f"a rank of at most {min(A.shape[1], B.shape[0])}"
            raise _refuse(file, "rank", name, most, f"{A.shape[0]}", "are lora_A and lora_B transposed?")
    norm2 = sum(float(((B.T @ B).double() * (A @ A.T).double()).sum()) for A, B in factors.values())
    notes = []
    if norm2 == 0:
        notes.append(Fault(code="all-zero", key="*", expected="an update", actual="zero everywhere: it does nothing"))
    inspection = Inspection(
        path=str(path), format=kind, base=metadata.get("lorasynth.base", metadata.get("ss_base_model_version", "")),
        rank=sorted({A.shape[0] for A, _ in factors.values()}), num_modules=len(factors), modules=list(factors),
        norm=max(norm2, 0.0) ** 0.5, metadata=metadata, faults=notes,
    )  # fmt: skip
    return factors, metadata, inspection


def _check_pairs(path: Path, tensors: dict[str, Tensor]) -> None:
    """Each down half has its up half: before the converters, which invent or drop what is missing."""
    halves = (("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"))  # fmt: skip
    for key in tensors:
        for down, up in [*halves, *((up, down) for down, up in halves)]:
            if key.endswith(down) and (other := key.removesuffix(down) + up) not in tensors:
                raise _refuse(path, "half-missing", other, f"both {down} and {up}", f"only {down}", "get the file again")
