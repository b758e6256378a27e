"""The strict gate: every LoRA file that somebody else may have written is read here, or refused with a reason.

The container is checked before a tensor is touched (see `container`), then every tensor before a converter sees it (`checks`).
Loaders of the field fill missing halves with random numbers, skip what does not fit and pass NaN on; here each of these is an
error that names the file, the key, what was expected and what came.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorasynth.lora.checks import Halves, check_content, detect_base, detect_format
from lorasynth.lora.container import MAX_FILE_MB, parse_header, read_bytes
from lorasynth.lora.faults import Fault, FaultyFileError, refuse
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
    num_modules: int = 0
    modules: list[str] = field(default_factory=list)
    norm: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not any(fault.fatal for fault in self.faults)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


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
    return tensors, _require_ok(inspection).metadata, inspection


def read_lora(path: str | Path, *, max_file_mb: int = MAX_FILE_MB) -> tuple[Pairs, dict[str, str], Inspection]:
    """Read a LoRA file, or a PEFT folder, of any format.

    Returns:
        module name -> (lora_A (R, I), lora_B (O, R)) in float32 with the scaling folded in; the header's metadata; and what was
        seen.

    Raises:
        LoRAFileError: naming file, key, expected and actual, if anything makes the file unsafe to use.
    """
    _, pairs, inspection = _read(Path(path), max_file_mb)
    return pairs, _require_ok(inspection).metadata, inspection


def _require_ok(inspection: Inspection) -> Inspection:
    fatal = [fault for fault in inspection.faults if fault.fatal]
    if fatal:
        raise FaultyFileError(fatal[0], inspection.path, more=len(fatal) - 1)
    return inspection


def _read(path: Path, max_file_mb: int) -> tuple[dict[str, Tensor], Pairs, Inspection]:
    """Everything at once: tensors, factors (empty if anything is fatal) and what was seen."""
    seen: dict[str, Any] = {"path": str(path), "faults": []}
    tensors: dict[str, Tensor] = {}
    pairs: Pairs = {}
    try:
        content, extra = _open(path, max_file_mb)
        entries, seen["metadata"] = parse_header(content)
        decoded = _decode(content)
        tensors = {key: decoded[key] for key in entries}  # in the order of the file: the first fault is always the same
        seen["format"] = detect_format(list(tensors))
        halves, seen["faults"] = check_content(tensors)
        seen.update(_summary(halves, seen["metadata"]))
        if not any(fault.fatal for fault in seen["faults"]):
            pairs = READERS[seen["format"]](tensors, {**seen["metadata"], **extra})
            pairs = dict(sorted(pairs.items(), key=lambda item: natural_order(item[0])))
            seen.update(modules=list(pairs), norm=_norm(pairs))
            seen["faults"] = [*seen["faults"], *_check_effect(pairs, seen)]
    except FaultyFileError as error:
        seen["faults"] = [*seen["faults"], error.fault]
    return tensors, pairs, Inspection(**seen)


def _open(path: Path, max_file_mb: int) -> tuple[bytes, dict[str, str]]:
    """The weights' bytes, and adapter_config.json's text if the weights are PEFT's."""
    if path.is_dir():
        if (path / "adapter_model.bin").exists() and not (path / WEIGHTS_NAME).exists():
            fix = "pickles are never opened; save the adapter as safetensors"
            raise refuse("other-kind", "adapter_model.bin", WEIGHTS_NAME, "a Python pickle", fix)
        if not (path / WEIGHTS_NAME).exists():
            fix = f"name a .safetensors file, or a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            raise refuse("not-a-file", "file", "a LoRA file or a PEFT folder", "another folder", fix)
        path = path / WEIGHTS_NAME
    content, config, extra = read_bytes(path, max_file_mb), path.with_name(CONFIG_NAME), {}
    if path.name == WEIGHTS_NAME and config.exists():
        try:
            extra[CONFIG_KEY] = read_bytes(config, max_file_mb=1).decode()
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
    detected = detect_base(halves)
    return {
        "base": metadata.get("lorasynth.base") or detected,
        "rank": ranks[0] if len(ranks) == 1 else (ranks or None),
        "num_modules": len(halves),
        "modules": sorted(halves, key=natural_order),
    }


def _norm(pairs: Pairs) -> float:
    """Frobenius norm of all B·A, from Gram matrices of rank size, in float64."""
    total = sum(float(((B.double().T @ B.double()) * (A.double() @ A.double().T)).sum()) for A, B in pairs.values())
    return max(total, 0.0) ** 0.5


def _check_effect(pairs: Pairs, seen: dict[str, Any]) -> list[Fault]:
    """What is legal, but whoever uses the file should know."""
    notes = []
    if seen["norm"] == 0:
        what = "zero everywhere: the file does nothing"
        fix = "check the training"
        notes.append(Fault(code="all-zero", key="*", expected="an update", actual=what, fix=fix, fatal=False))
    for name, (A, B) in pairs.items():
        if any(0 < float(part.abs().max()) < 6e-8 for part in (A, B)):
            what, fix = "all numbers below 6e-8, which vanish in float16", "scale lora_A up and lora_B down"
            notes.append(Fault(code="vanishing", key=name, expected="larger ones", actual=what, fix=fix, fatal=False))
    stated = seen["metadata"].get("lorasynth.layout")
    if stated and stated != Layout.from_factors(pairs, base=seen["base"]).hash:
        what = f"modules of another than {stated}"
        fix = "the file was changed since; check it"
        notes.append(
            Fault(code="layout", key="lorasynth.layout", expected="its layout", actual=what, fix=fix, fatal=False)
        )
    return notes
