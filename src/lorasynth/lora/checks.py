"""The gate's look at names and numbers: what is in a LoRA file, under its own names, before any converter."""

import math
import re
from dataclasses import dataclass

import numpy as np

from lorasynth.lora import names
from lorasynth.lora.identity import Layer
from lorasynth.lora.scaling import check_alpha
from lorasynth.storage.arrays import (
    BFLOAT16,
    LARGEST_FLOAT32,
    TYPES,
    WEIGHTS,
    Array,
    float32,
    is_number,
    largest_of_each,
    number,
    type_name,
)
from lorasynth.storage.faults import Fault, FaultyFileError, refuse

_AGAIN = "save it again, with the program that made it"
# Names of other kinds of adapter, and of changes of the base model itself.
_OTHER_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"dora_scale|lora_magnitude_vector", "DoRA"),
        (r"\.hada_", "LoHa"),
        (r"\.lokr_", "LoKr"),
        (r"\.b?oft_", "OFT"),
        (r"\.ia3_l\b|\.on_input$", "IA3"),
        (r"\.[ab][12]\.weight$", "GLoRA"),
        (r"\.vera_", "VeRA"),
        (r"\.lora_E\b", "AdaLoRA"),
        (r"\.fourierft_", "FourierFT"),
        (r"\.[wb]_norm$", "a change of a norm"),
        (r"\.lora_mid\.", "a Tucker-decomposed LoCon"),
        (r"\.lora_embedding_", "a LoRA of an embedding"),
        (r"\.bias$", "a bias"),
        (r"\.(set_weight|reshape_weight|diff|diff_b)$", "a change of the base weight itself"),
    )
)
_ANY_OTHER_KIND = re.compile("|".join(pattern.pattern for pattern, _ in _OTHER_KINDS))
# What is linear in every UNet and transformer, whatever a file says.
_LINEAR = re.compile(r"(transformer|double|single|joint)_blocks|time_emb|emb_layers")


@dataclass
class Halves:
    """What a file holds of one layer: shapes are those of the file."""

    spellings: tuple[str, ...] = ()
    adapter: str | None = None
    lora_A: tuple[str, Array] | None = None
    lora_B: tuple[str, Array] | None = None
    alpha: tuple[str, Array] | None = None

    def add(self, name: names.Name, key: str, tensor: Array) -> None:
        """Take a tensor in.

        Raises:
            FaultyFileError: that part is there already, of another adapter perhaps.
        """
        if (there := getattr(self, name.part)) is not None:
            fix = "save the LoRA again with the program that made it: only one of the two can be meant"
            if name.adapter != self.adapter:
                fix = "save each adapter in a file of its own"
            raise refuse("duplicate-module", key, "each module once", f"{there[0]} too", fix)
        setattr(self, name.part, (key, tensor))
        if name.part != "alpha":
            self.adapter = name.adapter

    @property
    def layer(self) -> Layer | None:
        """What can be said of it against a model's table. None if a half is missing or has no shape of a layer's."""
        if self.lora_A is None or self.lora_B is None:
            return None
        (key, A), B = self.lora_A, self.lora_B[1]
        if A.ndim not in (2, 4) or B.ndim not in (2, 4):
            return None
        kernel = (A.shape[2], A.shape[3]) if A.ndim == 4 else None
        return Layer(self.spellings, (math.prod(A.shape[1:]), B.shape[0], kernel), key)

    @property
    def rank(self) -> int | None:
        """Rows of lora_A, or what lora_B says in its place."""
        if self.lora_A is not None and self.lora_A[1].ndim in (2, 4):
            return len(self.lora_A[1])
        if self.lora_B is not None and self.lora_B[1].ndim in (2, 4):
            return self.lora_B[1].shape[1]
        return None


def check_content(tensors: dict[str, Array]) -> tuple[dict[str, Halves], str, list[Fault]]:
    """Sort tensors by layer and list everything that is wrong with them.

    Returns:
        layer, as the file spells it -> its parts; the file's format, "mixed" if it has several; and the faults.

    Raises:
        FaultyFileError: no tensor has a LoRA's name.
    """
    halves: dict[str, Halves] = {}
    faults: list[Fault] = []
    formats: dict[str, None] = {}
    if not any(names.parse(key) for key in tensors):
        raise _no_lora(list(tensors))
    weights = [key for key, tensor in tensors.items() if tensor.size and tensor.dtype in WEIGHTS]
    largest = dict(zip(weights, largest_of_each(map(tensors.__getitem__, weights)), strict=True))
    for key, tensor in tensors.items():
        try:
            name = _parse(key)
            formats[name.format] = None
            half = halves.setdefault(name.raw, Halves(spellings=name.spellings))
            half.add(name, key, tensor)
            _check_values(key, tensor, name.part, largest.get(key, 0.0))
        except FaultyFileError as error:
            faults.append(error.fault)
    spelled: dict[str, str] = {}
    for layer, half in halves.items():
        try:
            if (other := spelled.setdefault(layer.lower(), layer)) != layer:
                fix = "save the LoRA again with the program that made it: only one of the two can be meant"
                raise refuse("duplicate-module", layer, "each module once", f"{other} too, in other letters", fix)
            _check_module(layer, half)
        except FaultyFileError as error:
            faults.append(error.fault)
    if double := [key for key, tensor in tensors.items() if tensor.dtype == TYPES["F64"]]:
        got, fix = f"F64 in {len(double)} tensors, read as F32", "none is needed: programs compute in F32 or less"
        faults.append(
            Fault(code="double", key=double[0], expected="F16, BF16 or F32", actual=got, fix=fix, fatal=False)
        )
    return halves, next(iter(formats)) if len(formats) == 1 else "mixed" if formats else "unknown", faults


def _no_lora(keys: list[str]) -> FaultyFileError:
    """Why no tensor has a LoRA's name: it is another kind of adapter, a LoRA under other names, or none."""
    for key in keys:
        if _ANY_OTHER_KIND.search(key):
            return _other_kind(key)
    named = next((key for key in keys if "lora" in key.lower()), "")
    fix = "is this a LoRA? For a whole model, give the LoRA that was trained on it"
    if named:
        fix = "save it again, with the program that made it, under names of diffusers, kohya or PEFT"
    what = "names of LoRA tensors (….lora_A.weight, ….lora_down.weight)"
    return refuse("no-lora", named or keys[0], what, "none in the file", fix)


def _other_kind(key: str) -> FaultyFileError:
    kind = next(kind for pattern, kind in _OTHER_KINDS if pattern.search(key))
    fix = "use it in the program that it was made for: of adapters, LoRA, LoHa and LoKr are read"
    return refuse("kind", key, "a plain LoRA's tensor", kind, fix)


def _parse(key: str) -> names.Name:
    """What a tensor's name says.

    Raises:
        FaultyFileError: it is of another kind of adapter, or no LoRA's.
    """
    if _ANY_OTHER_KIND.search(key):
        raise _other_kind(key)
    if name := names.parse(key):
        return name
    fix = "save the LoRA alone, with the program that made the file: this one reads LoRAs and nothing beside them"
    raise refuse("unknown-key", key, "a LoRA's lora_A, lora_B or alpha", "another tensor", fix)


def _check_values(key: str, tensor: Array, part: str, largest: float) -> None:
    if part == "alpha" and not type_name(tensor).startswith("float8"):
        if not is_number(tensor):
            raise refuse("alpha", key, "one number", f"{tensor.shape} of {type_name(tensor)}", _AGAIN)
        return
    if 0 in tensor.shape:
        fix = "the file is empty of weights"
        raise refuse("zero-size", key, "no dimension of size 0", f"{tensor.shape}", fix)
    if tensor.dtype not in WEIGHTS:
        fix = "get it in one of these from where it was made"
        raise refuse("dtype", key, "F16, BF16 or F32", type_name(tensor), fix)
    if tensor.ndim == 4 and _LINEAR.search(key):
        fix = "is it for another model?"
        raise refuse("convolution", key, "2 dimensions, a linear layer's", f"{tensor.shape}", fix)
    if tensor.ndim not in (2, 4):
        what, fix = "2 dimensions, or a convolution's 4", "leave this layer out in training: others are not read"
        raise refuse("dimensions", key, what, f"{tensor.shape}", fix)
    if not math.isfinite(largest):
        bad = ~np.isfinite(float32(tensor) if tensor.dtype == BFLOAT16 else tensor)
        where = tuple(np.argwhere(bad)[0].tolist())
        got = f"{int(bad.sum())} NaN or infinite, the first at {where}"
        raise refuse(
            "not-finite",
            key,
            "finite numbers",
            got,
            "do not use this file: its training, or a conversion to float16, went wrong",
        )
    if largest > LARGEST_FLOAT32:
        raise refuse("too-large", key, "numbers that fit F32", f"{largest:.3g}", "check the training")


def _check_module(name: str, half: Halves) -> None:
    """Both halves, of one rank that the layer can have, and an alpha that can be meant."""
    if half.lora_A is None or half.lora_B is None:
        there = half.lora_A or half.lora_B or half.alpha
        missing = "lora_A (lora_down)" if half.lora_A is None else "lora_B (lora_up)"
        got = f"no {missing} beside {there[0] if there else name}"
        raise refuse(
            "missing-half",
            name,
            "both lora_A and lora_B",
            got,
            "compare its names with those of the file that it was made from",
        )
    (key_A, A), (key_B, B) = half.lora_A, half.lora_B
    if A.ndim not in (2, 4) or B.ndim not in (2, 4):
        return  # said already
    if A.ndim != B.ndim or math.prod(B.shape[2:]) > 1:
        what = "(out, rank) beside (rank, in), or a convolution's (out, rank, 1, 1) beside (rank, in, height, width)"
        got = f"{B.shape} beside {A.shape}"
        raise refuse("dimensions", key_B, what, got, _AGAIN)
    shapes = f"{A.shape} and {B.shape}"
    if A.shape[0] != B.shape[1]:
        what = f"lora_A (rank, in) and lora_B (out, rank) of one rank, as {key_B} has it"
        raise refuse("rank", key_A, what, f"ranks {A.shape[0]} and {B.shape[1]} in {shapes}", _AGAIN)
    if half.alpha is not None and is_number(half.alpha[1]):
        check_alpha(half.alpha[0], number(half.alpha[1]), max(len(A), 1))
