"""The strict gate: every LoRA file that somebody else may have written is read here, or refused with a reason.

The container is checked before a tensor is touched (see `container`), then every tensor before a converter sees it (`checks`).
Loaders of the field fill missing halves with random numbers, skip what does not fit and pass NaN on; here each of these is an
error that names the file, the key, what was expected and what came.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorasynth.lora.checks import Halves, check_content, detect_base, detect_format
from lorasynth.lora.container import MAX_FILE_MB, MAX_HEADER_BYTES, parse_header, read_bytes
from lorasynth.lora.faults import Fault, FaultyFileError, printable, refuse, shown
from lorasynth.lora.formats import READERS
from lorasynth.lora.formats.peft import CONFIG_KEY, CONFIG_NAME, WEIGHTS_NAME
from lorasynth.lora.formats.scaling import Pairs
from lorasynth.lora.layout import Layout, natural_order


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a LoRA file is and says.

    Attributes:
        path: the file or folder.
        format: "kohya", "diffusers", "peft" or "unknown".
        base: by its metadata or, failing that, by its shapes: "sd15", "sd2", "sdxl", "flux", "sd3"; "" if unknown.
        rank: of all modules, or the different ranks there are.
        alphas: the different alphas among its tensors; empty if there are none, and alpha is the rank or stands in the metadata.
        num_modules: how many layers it adapts.
        modules: their names.
        norm: Frobenius norm of all weight updates together; None where it cannot be said.
        metadata: of the header, as found: show it escaped.
        faults: everything that is wrong or worth knowing.
    """

    path: str
    format: str = "unknown"
    base: str = ""
    rank: int | list[int] | None = None
    alphas: list[float] = field(default_factory=list)
    num_modules: int = 0
    modules: list[str] = field(default_factory=list)
    norm: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not any(fault.fatal for fault in self.faults)

    def require_ok(self) -> "Inspection":
        """Itself.

        Raises:
            LoRAFileError: the file cannot be used; the error names the first reason.
        """
        fatal = [fault for fault in self.faults if fault.fatal]
        if fatal:
            raise FaultyFileError(fatal[0], self.path, more=len(fatal) - 1)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, safe to print: what the file says of itself comes without control characters."""
        metadata = {printable(k, MAX_HEADER_BYTES): printable(v, MAX_HEADER_BYTES) for k, v in self.metadata.items()}
        return {**asdict(self), "path": shown(self.path), "metadata": metadata}


def read_header(path: str | Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Tensor entries (dtype, shape, data_offsets) and metadata of a safetensors file, checked against the format and our limits.

    Raises:
        LoRAFileError: naming the file and its first fault.
    """
    try:
        return parse_header(read_bytes(Path(path)))
    except FaultyFileError as error:
        raise FaultyFileError(error.fault, path) from None


def inspect_file(path: str | Path, *, max_file_mb: int = MAX_FILE_MB) -> Inspection:
    """Look at a LoRA file or PEFT folder of any format. Never raises on a bad one: what is wrong stands in ``faults``."""
    return _read(Path(path), max_file_mb)[2]


def read_lora_file(
    path: str | Path, *, max_file_mb: int = MAX_FILE_MB
) -> tuple[dict[str, Tensor], dict[str, str], Inspection]:
    """A LoRA file's tensors under its own names, its metadata, and what was seen; for a PEFT folder those of its weights.

    Raises:
        LoRAFileError: naming file, key, expected and actual, if anything makes the file unsafe to use.
    """
    tensors, _, inspection = _read(Path(path), max_file_mb)
    return tensors, inspection.require_ok().metadata, inspection


def read_lora(path: str | Path, *, max_file_mb: int = MAX_FILE_MB) -> tuple[Pairs, dict[str, str], Inspection]:
    """Read a LoRA file, or a PEFT folder, of any format.

    Returns:
        module name -> (lora_A (R, I), lora_B (O, R)) in float32 with the scaling folded in; the header's metadata; and what was
        seen.

    Raises:
        LoRAFileError: naming file, key, expected and actual, if anything makes the file unsafe to use.
    """
    _, pairs, inspection = _read(Path(path), max_file_mb)
    return pairs, inspection.require_ok().metadata, inspection


def read_lora_bytes(
    content: bytes, name: str = "bytes", *, adapter_config: str | None = None
) -> tuple[Pairs, dict[str, str], Inspection]:
    """`read_lora` for a file that is in memory, an upload perhaps.

    Args:
        content: the file's bytes.
        name: what to call it in messages.
        adapter_config: the text of adapter_config.json, if the bytes are PEFT's weights.

    Raises:
        LoRAFileError: as `read_lora`.
    """
    extra = {} if adapter_config is None else {CONFIG_KEY: adapter_config}
    _, pairs, inspection = _examine(name, lambda: (content, extra))
    return pairs, inspection.require_ok().metadata, inspection


def _read(path: Path, max_file_mb: int) -> tuple[dict[str, Tensor], Pairs, Inspection]:
    return _examine(str(path), lambda: _open(path, max_file_mb))


def _examine(name: str, get: Callable[[], tuple[bytes, dict[str, str]]]) -> tuple[dict[str, Tensor], Pairs, Inspection]:
    """Everything at once: tensors, factors (empty if anything is fatal) and what was seen."""
    seen: dict[str, Any] = {"path": name, "faults": []}
    tensors: dict[str, Tensor] = {}
    pairs: Pairs = {}
    try:
        content, extra = get()
        entries, seen["metadata"] = parse_header(content)
        _check_base(seen["metadata"])
        decoded = _decode(content)
        del content  # it is all in the tensors now
        tensors = {key: decoded[key] for key in entries}  # in the order of the file: the first fault is always the same
        seen["format"] = detect_format(list(tensors))
        halves, seen["faults"] = check_content(tensors)
        seen.update(_summary(halves, seen["metadata"]))
        if not any(fault.fatal for fault in seen["faults"]):
            pairs = READERS[seen["format"]](tensors, {**seen["metadata"], **extra})
            pairs = dict(sorted(pairs.items(), key=lambda item: natural_order(item[0])))
            seen.update(modules=list(pairs), norm=_norm(pairs))
            seen["faults"] = [*seen["faults"], *_check_effect(pairs, seen["norm"]), *_check_statements(pairs, seen)]
    except FaultyFileError as error:
        seen["faults"] = [*seen["faults"], error.fault]
    return tensors, pairs, Inspection(**seen)


def _open(path: Path, max_file_mb: int) -> tuple[bytes, dict[str, str]]:
    """The weights' bytes, and adapter_config.json's text if the weights are PEFT's."""
    # NOTE: os.path's questions are answered "no" where pathlib's raise, as for a name too long or a folder one may not enter.
    if os.path.isdir(path):
        is_there = os.path.exists(path / WEIGHTS_NAME)
        if os.path.exists(path / "adapter_model.bin") and not is_there:
            fix = "pickles are never opened; save the adapter as safetensors"
            raise refuse("other-kind", "adapter_model.bin", WEIGHTS_NAME, "a Python pickle", fix)
        if not is_there:
            fix = f"name a .safetensors file, or a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            raise refuse("not-a-file", "file", "a LoRA file or a PEFT folder", "another folder", fix)
        path = path / WEIGHTS_NAME
    content, config, extra = read_bytes(path, max_file_mb), path.with_name(CONFIG_NAME), {}
    if path.name == WEIGHTS_NAME and os.path.exists(config):
        try:
            extra[CONFIG_KEY] = read_bytes(config, max_file_mb=1).decode()
        except FaultyFileError as error:
            raise FaultyFileError(replace(error.fault, key=CONFIG_NAME)) from None
        except UnicodeDecodeError as error:
            raise refuse("not-utf8", CONFIG_NAME, "UTF-8", f"another byte at {error.start}", "save it again") from None
    return content, extra


def _decode(content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise refuse("unreadable", "file", "safetensors", f"{error}", "write the file again") from None


def _summary(halves: dict[str, Halves], metadata: dict[str, str]) -> dict[str, Any]:
    ranks = sorted({half.rank for half in halves.values() if half.rank is not None})
    alphas = {float(half.alpha[1].item()) for half in halves.values() if half.alpha and half.alpha[1].numel() == 1}
    return {
        "base": metadata.get("lorasynth.base") or detect_base(halves),
        "rank": ranks[0] if len(ranks) == 1 else (ranks or None),
        "alphas": sorted(filter(math.isfinite, alphas)),
        "num_modules": len(halves),
        "modules": sorted(halves, key=natural_order),
    }


def _check_base(metadata: dict[str, str]) -> None:
    """The name of the base goes into messages and layouts."""
    base = metadata.get("lorasynth.base", "")
    if not base.isprintable() or len(base) > 200:
        raise refuse("bad-metadata", "lorasynth.base", "a name of at most 200 characters", base, "write the file again")


def _norm(pairs: Pairs) -> float:
    """Frobenius norm of all B·A, from Gram matrices of rank size, in float64.

    Raises:
        FaultyFileError: an update that F32 does not hold, be it by its scaling or by the product of its halves.
    """
    total = 0.0
    for name, (A, B) in pairs.items():
        sizes = float(A.abs().max()), float(B.abs().max())
        if not len(A) * sizes[0] * sizes[1] <= torch.finfo(torch.float32).max:  # nor if that is no number
            got = f"a product of numbers up to {sizes[0]:.3g} and {sizes[1]:.3g}"
            raise refuse("too-large", name, "an update that fits F32", got, "check the training")
        total += float(((B.double().T @ B.double()) * (A.double() @ A.double().T)).sum())
    return max(total, 0.0) ** 0.5


def _note(code: str, key: str, expected: str, actual: str, fix: str) -> Fault:
    """Legal, but whoever uses the file should know."""
    return Fault(code=code, key=key, expected=expected, actual=actual, fix=fix, fatal=False)


def _check_effect(pairs: Pairs, norm: float) -> list[Fault]:
    """Updates that are zero, or that float16 changes."""
    notes: list[Fault] = []
    largest = {name: [float(part.abs().max()) for part in pair] for name, pair in pairs.items()}
    zero = [name for name, sizes in largest.items() if min(sizes) == 0]
    if norm == 0:
        notes.append(
            _note("all-zero", "*", "an update", "zero everywhere: the file does nothing", "check the training")
        )
    elif zero:
        what = f"zero, as in {len(zero)} of {len(pairs)} modules"
        notes.append(_note("zero-pair", zero[0], "an update", what, "check the training"))
    for name, sizes in largest.items():
        if any(0 < size < 6e-8 for size in sizes):
            what, fix = "all numbers below 6e-8, which vanish in float16", "scale lora_A up and lora_B down"
            notes.append(_note("vanishing", name, "larger ones", what, fix))
        if max(sizes) > 65_504:
            what, fix = f"{max(sizes):.3g}, which float16 cannot hold", "check the training"
            notes.append(_note("overflowing", name, "at most 65504", what, fix))
    return notes


def _check_statements(pairs: Pairs, seen: dict[str, Any]) -> list[Fault]:
    """Where the header says otherwise than the tensors, which are what counts."""
    notes, fix = [], "the file was changed since; check it"
    ranks = {len(A) for A, _ in pairs.values()}
    for key, found in (("ss_network_dim", ranks), ("ss_network_alpha", seen["alphas"] or ranks)):
        stated = seen["metadata"].get(key, "")
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated) and set(found) != {float(stated)}:
            notes.append(_note("stated", key, f"{sorted(found)}, as the tensors are", stated, fix))
    stated = seen["metadata"].get("lorasynth.layout")
    if stated and stated != Layout.from_factors(pairs, base=seen["base"]).hash:
        notes.append(_note("layout", "lorasynth.layout", "its layout", f"modules of another than {stated}", fix))
    return notes
