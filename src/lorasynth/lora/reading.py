"""From a file's layers to the model's modules: fused layers taken apart, and the number that each product counts with."""

from collections.abc import Mapping

import numpy as np

from lorasynth.lora.bases import Parts
from lorasynth.lora.checks import Halves
from lorasynth.lora.configuration import CONFIG_KEY, CONFIG_NAME, configuration
from lorasynth.lora.identity import Identity
from lorasynth.lora.layout import Layout
from lorasynth.lora.scaling import (
    METADATA_KEY,
    Halved,
    Scaled,
    Stored,
    check_alpha,
    header_config,
    require_one_scale,
    scaled_by,
)
from lorasynth.storage.arrays import Array, is_zero, nonzero, number
from lorasynth.storage.faults import Fault, refuse

_ONE_BY_ONE = (1, 1)


def stored_of(halves: dict[str, Halves], identity: Identity, metadata: Mapping[str, str]) -> Stored:
    """Module name -> (lora_A, lora_B, scaling), under the names of the base's model where it is known.

    Args:
        halves: the file's layers, all of them whole; emptied on the way, so that each goes as it is taken apart.
        identity: what the layers are.
        metadata: of the header, with `CONFIG_KEY` for a PEFT folder.

    Raises:
        FaultyFileError: a module under two names, scales that disagree or cannot be meant, or a configuration that asks for
            something else than a plain LoRA.
    """
    pairs: Halved = {}
    said: dict[str, float] = {}
    keys: dict[str, str] = {}
    for raw in list(halves):
        half = halves.pop(raw)
        assert half.lora_A is not None  # as the checks have seen
        assert half.lora_B is not None
        key, scaling = half.lora_A[0], _scaling_of(raw, half)
        for module, (A, B) in _taken_apart(identity.parts[raw], half.lora_A[1], half.lora_B[1]).items():
            if module in keys:
                fix = "save the LoRA again with the program that made it: only one of the two can be meant"
                raise refuse("duplicate-module", key, "each module once", f"{module} by {keys[module]} too", fix)
            pairs[module], keys[module] = _as_the_layer_is(identity, module, A, B), key
            if scaling is not None:
                said[module] = scaling
    return _scaled(pairs, said, metadata)


def _scaling_of(raw: str, half: Halves) -> float | None:
    """What a layer's own tensors say of its scaling: alpha / rank; 1 for kohya's names without alpha. None for others'."""
    rank = half.rank or 1
    if half.alpha is None:
        return 1.0 if raw.startswith("lora_") else None
    alpha = number(half.alpha[1])
    check_alpha(half.alpha[0], alpha, rank)
    return alpha / rank


def check_scale(halves: Mapping[str, Halves], format: str, metadata: Mapping[str, str]) -> list[Fault]:
    """A note on PEFT's names without PEFT's configuration: nothing says the scale, and 1 is what other programs take.

    Raises:
        FaultyFileError: the file is PEFT's own, adapter_model.safetensors, whose scale is nowhere else.
    """
    if format != "peft" or metadata.get(CONFIG_KEY) or METADATA_KEY in metadata:
        return []
    if CONFIG_KEY in metadata:
        fix = "keep the two files of a PEFT folder together"
        raise refuse("no-config", CONFIG_NAME, "it beside the weights, as the scale is in it", "none", fix)
    if all(half.alpha for half in halves.values()):
        return []
    what, fix = (
        "adapter_config.json, alphas or a header with the scale",
        "compare a picture, if the trainer used alpha != rank",
    )
    return [
        Fault(code="no-config", key=CONFIG_NAME, expected=what, actual="none: scale 1 is taken", fix=fix, fatal=False)
    ]


def without_padding(stored: Stored, metadata: Mapping[str, str], base: str) -> Stored:
    """The factors without the zeros that our own kohya files fill ranks up with, if that is what their header says.

    The header names the layout before filling up by its hash. Rows of lora_A that are zero, with zero columns of lora_B, go from
    the end. If what remains has another hash, they were meant.
    """
    if not (stated := metadata.get("lorasynth.layout")):
        return stored
    trimmed = {name: _used_ranks(parts) for name, parts in stored.items()}
    if all(len(parts.lora_A) == len(stored[name].lora_A) for name, parts in trimmed.items()):
        return stored
    layout = Layout.from_factors(
        {name: (A, B) for name, (A, B, _) in trimmed.items()}, base=metadata.get("lorasynth.base", base)
    )
    return trimmed if layout.hash == stated else stored


def _used_ranks(parts: Scaled) -> Scaled:
    """Without rows of lora_A that are zero at its end, where lora_B's columns are too. One stays."""
    A, B, scaling = parts
    if not (is_zero(A[-1]) and is_zero(B[:, -1])):
        return parts
    used = np.flatnonzero(nonzero(A).reshape(len(A), -1).any(1) | nonzero(B).reshape(B.shape[:2]).any(0))
    rank = int(used[-1]) + 1 if len(used) else 1
    return Scaled(A[:rank], B[:, :rank], scaling)


def _taken_apart(parts: Parts, A: Array, B: Array) -> Halved:
    """The modules that a layer is, with their factors. Parts that are zero altogether were never trained, and are left out.

    A block-diagonal lora_B, as kohya's converter writes parts of one rank, gives each part its own rows of lora_A. Any other is
    cut into rows and shares lora_A.
    """
    if len(parts) == 1:
        ((module, rows),) = parts
        return {module: (A, B if len(rows) == 1 else np.concatenate([B[first:last] for first, last in rows]))}
    cut = {module: B[first:last] for module, ((first, last),) in parts}
    rank, rest = divmod(len(A), len(cut))
    columns = [slice(i * rank, (i + 1) * rank) for i in range(len(cut))]
    found = {module: (A, rows) for module, rows in cut.items()}
    if not rest and all(_is_zero_outside(B_part, own) for B_part, own in zip(cut.values(), columns, strict=True)):
        found = {module: (A[own], B_part[:, own]) for (module, B_part), own in zip(cut.items(), columns, strict=True)}
    trained = {module: halves for module, halves in found.items() if not (is_zero(halves[0]) and is_zero(halves[1]))}
    return trained or found


def _is_zero_outside(B: Array, columns: slice) -> bool:
    return is_zero(B[:, : columns.start]) and is_zero(B[:, columns.stop :])


def _as_the_layer_is(identity: Identity, module: str, A: Array, B: Array) -> tuple[Array, Array]:
    """A matrix for what the model has as a 1 x 1 convolution, and the other way round: the same update in the layer's shape."""
    kernel = identity.model.modules[module][2] if identity.model is not None else None
    if kernel == _ONE_BY_ONE and A.ndim == 2:
        return A[..., None, None], B[..., None, None]
    if identity.model is not None and kernel is None and A.ndim == 4:
        return A.reshape(len(A), -1), B.reshape(len(B), -1)
    return A, B


def _scaled(pairs: Halved, said: dict[str, float], metadata: Mapping[str, str]) -> Stored:
    """Each module's factors with the scaling of its tensors, of PEFT's configuration, of both if they agree, or 1.

    Args:
        pairs: the modules' factors.
        said: the scaling of each module that its alpha gives, or kohya's names, which mean 1 without one.
        metadata: with a configuration of PEFT's, of a folder or in diffusers' header, or without.
    """
    stored = {name: Scaled(A, B, said.get(name, 1.0)) for name, (A, B) in pairs.items()}
    if metadata.get(CONFIG_KEY):
        config, where = configuration(metadata), CONFIG_NAME
    else:
        found = header_config(metadata, "unet.") or header_config(metadata, "transformer.")
        if found is None:
            return stored
        config, where = found, METADATA_KEY
    by_tensors = {name: entry for name, entry in stored.items() if name in said}
    require_one_scale(by_tensors, config, "its alpha says, or kohya's names without one")
    rest = {name: (A, B) for name, (A, B) in pairs.items() if name not in said}
    return {**stored, **scaled_by(rest, config, where)}
