"""The strict gate: every LoRA file that somebody else may have written is read here, or refused with a reason.

The container is checked before a tensor is touched (see `container`), then every tensor before a converter sees it (`checks`).
Loaders of the field fill missing halves with random numbers, skip what does not fit and pass NaN on. Here each of these is an
error that names the file, the key, what was expected and what came.
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasynth.lora.checks import Halves, check_content
from lorasynth.lora.configuration import CONFIG_KEY, CONFIG_NAME, WEIGHTS_NAME, configuration
from lorasynth.lora.effect import check_effect, norm_of, sizes_of
from lorasynth.lora.flat import flat_of
from lorasynth.lora.identity import Identity, identify
from lorasynth.lora.inspection import Inspection
from lorasynth.lora.layout import Layout
from lorasynth.lora.lycoris import as_plain
from lorasynth.lora.names import natural_order
from lorasynth.lora.rank import within_widths
from lorasynth.lora.reading import check_scale, stored_of, without_padding
from lorasynth.lora.scaling import Stored
from lorasynth.lora.statements import check_base_name, check_statements
from lorasynth.lora.text_encoders import faults_of, without_text_encoders
from lorasynth.storage.arrays import Array, is_number, number
from lorasynth.storage.container import MAX_FILE_MB, read_bytes, read_tensors, tensors_of
from lorasynth.storage.container import read_header as read_header
from lorasynth.storage.faults import FaultyFileError, refuse

if TYPE_CHECKING:
    from torch import Tensor

    from lorasynth.lora.products import Pairs

Opened = tuple[dict[str, Array], dict[str, str], dict[str, str]]
"""A file's tensors, its header's metadata, and what stands beside it, by the names that readers look for."""
Raw = tuple[bytes, dict[str, str]]
"""A file's bytes, and what stands beside it."""


def inspect_file(
    path: str | Path, *, max_file_mb: int = MAX_FILE_MB, unet_only: bool = False, base: str | None = None
) -> Inspection:
    """Look at a LoRA file or PEFT folder of any format. Never raises: what is wrong stands in ``faults``."""
    return _examine(str(path), lambda: _open(Path(path), max_file_mb), unet_only, base, measure=True)[1]


def read_raw(path: str | Path, *, max_file_mb: int = MAX_FILE_MB) -> Raw:
    """The bytes of a LoRA file, or of a PEFT folder's weights, read once: for whoever needs more than one thing of them.

    Raises:
        LoRAFileError: naming the file and why it cannot be read.
    """
    try:
        weights, extra = _weights_of(Path(path))
        return read_bytes(weights, max_file_mb), extra
    except FaultyFileError as error:
        raise FaultyFileError(error.fault, path) from None


def read_file(
    path: str | Path,
    *,
    max_file_mb: int = MAX_FILE_MB,
    unet_only: bool = False,
    base: str | None = None,
    raw: Raw | None = None,
) -> tuple[Layout, Stored, Inspection]:
    """Read a LoRA file, or a PEFT folder, of any format, in memory of its size.

    Args:
        path: the file or folder.
        max_file_mb: what is larger is not opened.
        unet_only: leave out what belongs to text encoders, which otherwise makes a file useless here.
        base: the base model that it is for, whatever it says itself.
        raw: its bytes, where `read_raw` has read them; the path then only names it.

    Returns:
        Its layout; its factors in the file's own types, and the scaling of each; and what was seen, but for the norm.

    Raises:
        LoRAFileError: naming file, key, expected and actual, if anything makes the file unsafe to use.
    """

    def get() -> Opened:
        return _open(Path(path), max_file_mb) if raw is None else (*tensors_of(raw[0]), raw[1])

    stored, inspection = _examine(str(path), get, unet_only, base)
    inspection.require_ok()
    return _layout(stored, inspection.base), stored, inspection


def read_flat(path: str | Path, **options: Any) -> "tuple[Layout, Tensor, dict[str, str], Inspection]":
    """`read_file` as a vector, in memory of twice the file's size, or of its size in float32 if that is more.

    Returns:
        Its layout and its vector (P,) in float32 with the scaling folded in; the header's metadata; and what was seen, but for
        the norm.

    Raises:
        LoRAFileError: as `read_file`.
    """
    layout, stored, inspection = read_file(path, **options)
    return layout, flat_of(layout, stored), inspection.metadata, inspection


def read_lora(path: str | Path, *, max_file_mb: int = MAX_FILE_MB) -> "tuple[Pairs, dict[str, str], Inspection]":
    """`read_flat` by modules.

    Returns:
        module name -> (lora_A (R, I), lora_B (O, R)) in float32 with the scaling folded in; the header's metadata; and what was
        seen.

    Raises:
        LoRAFileError: naming file, key, expected and actual, if anything makes the file unsafe to use.
    """
    layout, vector, metadata, inspection = read_flat(path, max_file_mb=max_file_mb)
    return _pairs(layout, vector), metadata, inspection


def read_lora_bytes(
    content: bytes, name: str = "bytes", *, adapter_config: str | None = None
) -> "tuple[Pairs, dict[str, str], Inspection]":
    """`read_lora` for a file that is in memory, an upload perhaps.

    Args:
        content: the file's bytes.
        name: what to call it in messages.
        adapter_config: the text of adapter_config.json, if the bytes are PEFT's weights.

    Raises:
        LoRAFileError: as `read_lora`.
    """
    extra = {} if adapter_config is None else {CONFIG_KEY: adapter_config}
    stored, inspection = _examine(name, lambda: (*tensors_of(content), extra))
    metadata = inspection.require_ok().metadata
    layout = _layout(stored, inspection.base)
    return _pairs(layout, flat_of(layout, stored)), metadata, inspection


def read_stored(tensors: dict[str, Array], metadata: dict[str, str], extra: dict[str, str]) -> Stored:
    """What a file of these tensors, with this metadata and this beside it, gives its reader: no copy is made of any.

    Raises:
        LoRAFileError: as `read_lora`, of "file".
    """
    stored, inspection = _examine("file", lambda: (dict(tensors), metadata, extra))
    inspection.require_ok()
    return stored


def _examine(
    name: str, get: Callable[[], Opened], unet_only: bool = False, base: str | None = None, measure: bool = False
) -> tuple[Stored, Inspection]:
    """Everything at once: the modules' factors (none if anything is fatal) and what was seen.

    To ``measure`` is to look at what the LoRA does even if it is for another base or has a text encoder's part.
    """
    seen: dict[str, Any] = {"path": name, "faults": []}
    stored: Stored = {}
    left_out: dict[str, Array] = {}
    try:
        tensors, seen["metadata"], extra = get()
        check_base_name(seen["metadata"])
        tensors, left_out = without_text_encoders(tensors)
        tensors, extra, converted = as_plain(tensors, extra)
        seen["faults"] = converted
        if extra.get(CONFIG_KEY):
            configuration(extra)  # first, as what it asks for explains tensors that are no LoRA's
        halves, identity = _check_tensors(tensors, seen, base)
        del tensors  # so that each goes as it is copied
        may_go_on = ("base",) if measure else ()
        if identity is not None and not any(fault.fatal and fault.code not in may_go_on for fault in seen["faults"]):
            stored = _look_at(halves, identity, {**seen["metadata"], **extra}, seen, measure)
    except FaultyFileError as error:
        seen["faults"] = [*seen["faults"], error.fault]
    if left_out:
        seen["faults"] = faults_of(left_out, seen["metadata"], seen.get("norm"), asked=unet_only) + seen["faults"]
    inspection = Inspection(**seen)
    return stored if inspection.ok else {}, inspection


def _look_at(
    halves: dict[str, Halves], identity: Identity, metadata: dict[str, str], seen: dict[str, Any], measure: bool
) -> Stored:
    """The modules' factors. Notes what they are, and what is worth knowing of them.

    Raises:
        FaultyFileError: their scale cannot be meant, or their update is too large.
    """
    notes = check_scale(halves, seen["format"], metadata)
    stored = without_padding(stored_of(halves, identity, metadata), seen["metadata"], seen["base"])
    notes += within_widths(stored)
    sizes = sizes_of(stored)
    layout = _layout(stored, seen["base"])
    notes += check_statements(layout, seen)
    ranks = sorted({m.rank for m in layout.modules})
    seen.update(modules=[m.name for m in layout.modules], num_modules=len(layout.modules))
    seen["rank"] = ranks[0] if len(ranks) == 1 else ranks
    seen["norm"] = norm_of(stored) if measure else None
    seen["faults"] = [*seen["faults"], *check_effect(sizes, seen["norm"]), *notes]
    return stored


def _check_tensors(
    tensors: dict[str, Array], seen: dict[str, Any], base: str | None
) -> tuple[dict[str, Halves], Identity | None]:
    """Note format, base, ranks, alphas, modules and faults of a file's own tensors."""
    halves, seen["format"], faults = check_content(tensors)
    seen.update(_summary(halves))
    layers = {name: layer for name, half in halves.items() if (layer := half.layer) is not None}
    identity = identify(layers, seen["metadata"], base) if layers else None
    if identity is not None:
        seen["base"], seen["is_named"] = identity.base, identity.is_named
        faults += [fault for fault in identity.faults if fault.fatal or len(layers) == len(halves)]
    seen["faults"] = [*seen["faults"], *faults]
    return halves, identity


def _layout(stored: Stored, base: str) -> Layout:
    return Layout.from_factors({name: (A, B) for name, (A, B, _) in stored.items()}, base=base)


def _pairs(layout: Layout, vector: "Tensor") -> "Pairs":
    """The factors of each module, as views."""
    return {name: (A[0], B[0]) for name, (A, B) in layout.split(vector[None]).items()}


def _open(path: Path, max_file_mb: int) -> Opened:
    """The weights, read once, and adapter_config.json's text if they are PEFT's."""
    weights, extra = _weights_of(path)
    return *read_tensors(weights, max_file_mb), extra


def _weights_of(path: Path) -> tuple[Path, dict[str, str]]:
    """The file of the weights, and what stands beside it."""
    # NOTE: os.path's questions are answered "no" where pathlib's raise, as for a name too long or a folder one may not enter.
    if os.path.isdir(path):
        is_there = os.path.exists(path / WEIGHTS_NAME)
        if os.path.exists(path / "adapter_model.bin") and not is_there:
            fix = "pickles are never opened here; save it as safetensors, or use `lorasynth import-legacy`"
            raise refuse("other-kind", "adapter_model.bin", WEIGHTS_NAME, "a Python pickle", fix)
        if not is_there:
            fix = f"name a .safetensors file, or a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            raise refuse("not-a-file", "file", "a LoRA file or a PEFT folder", "another folder", fix)
        path = path / WEIGHTS_NAME
    config = adapter_config_of(path)
    return path, {} if config is None and path.name != WEIGHTS_NAME else {CONFIG_KEY: config or ""}


def adapter_config_of(path: Path) -> str | None:
    """The text of the adapter_config.json beside PEFT's weights. None if the file is not called so, or stands alone.

    Raises:
        FaultyFileError: it cannot be read.
    """
    config = path.with_name(CONFIG_NAME)
    if path.name != WEIGHTS_NAME or not os.path.exists(config):
        return None
    try:
        return read_bytes(config, max_file_mb=1).decode()
    except FaultyFileError as error:
        raise FaultyFileError(replace(error.fault, key=CONFIG_NAME)) from None
    except UnicodeDecodeError as error:
        raise refuse("not-utf8", CONFIG_NAME, "UTF-8", f"another byte at {error.start}", "save it again") from None


def _summary(halves: dict[str, Halves]) -> dict[str, Any]:
    ranks = sorted({half.rank for half in halves.values() if half.rank is not None})
    alphas = {number(half.alpha[1]) for half in halves.values() if half.alpha and is_number(half.alpha[1])}
    return {
        "rank": ranks[0] if len(ranks) == 1 else (ranks or None),
        "alphas": sorted(filter(math.isfinite, alphas)),
        "num_modules": len(halves),
        "modules": sorted(halves, key=natural_order),
    }
