"""The gate's look at what a LoRA does, once its factors are known: how large it is, and whether that is what the header says."""

import re
from dataclasses import replace
from typing import Any

import torch

from lorasynth.lora.faults import Fault, refuse
from lorasynth.lora.formats.scaling import Pairs
from lorasynth.lora.layout import Layout


def norm_of(pairs: Pairs) -> float:
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


def check_effect(pairs: Pairs, norm: float) -> list[Fault]:
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


def check_statements(layout: Layout, seen: dict[str, Any]) -> list[Fault]:
    """Where the header says otherwise than the tensors, which are what counts."""
    notes, fix = [], "the file was changed since; check it"
    ranks = {m.rank for m in layout.modules}
    for key, found in (("ss_network_dim", ranks), ("ss_network_alpha", seen["alphas"] or ranks)):
        stated = seen["metadata"].get(key, "")
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated) and set(found) != {float(stated)}:
            notes.append(_note("stated", key, f"{sorted(found)}, as the tensors are", stated, fix))
    stated = seen["metadata"].get("lorasynth.layout")
    if stated and stated != replace(layout, base=seen["metadata"].get("lorasynth.base", layout.base)).hash:
        notes.append(_note("layout", "lorasynth.layout", "its layout", f"modules of another than {stated}", fix))
    return notes
