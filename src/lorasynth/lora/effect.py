"""The gate's look at what a LoRA does, once its factors are known: how large it is, and whether that is what the header says."""

import re
from dataclasses import replace
from typing import Any

import torch

from lorasynth.lora.faults import Fault, refuse
from lorasynth.lora.formats.scaling import Pairs, largest_of
from lorasynth.lora.layout import Layout
from lorasynth.lora.products import update_norm2


def norm_of(pairs: Pairs) -> float:
    """Frobenius norm of all B·A, in float64.

    Raises:
        FaultyFileError: an update that F32 does not hold, be it by its scaling or by the product of its halves.
    """
    total = 0.0
    for name, (A, B) in pairs.items():
        sizes = largest_of(A), largest_of(B)
        if not len(A) * sizes[0] * sizes[1] <= torch.finfo(torch.float32).max:  # nor if that is no number
            got = f"a product of numbers up to {sizes[0]:.3g} and {sizes[1]:.3g}"
            raise refuse("too-large", name, "an update that fits F32", got, "check the training")
        total += update_norm2(A, B)
    return total**0.5


def _note(code: str, key: str, expected: str, actual: str, fix: str) -> Fault:
    """Legal, but whoever uses the file should know."""
    return Fault(code=code, key=key, expected=expected, actual=actual, fix=fix, fatal=False)


def check_effect(pairs: Pairs, norm: float) -> list[Fault]:
    """Updates that are zero, or that float16 changes."""
    notes: list[Fault] = []
    largest = {name: [largest_of(part) for part in pair] for name, pair in pairs.items()}
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
    """Where the header says otherwise than the tensors, which are what counts.

    Args:
        layout: as read.
        seen: ``metadata``, and ``rank`` and ``alphas`` of the file's own tensors.
    """
    notes, fix = [], "none is needed for the tensors, which count; the header is of other ones"
    metadata, rank = seen["metadata"], seen["rank"]
    ranks = rank if isinstance(rank, list) else [rank]
    # NOTE: kohya's options give blocks and convolutions ranks of their own, and write the general one all the same.
    if not re.search(r"dim|alpha", metadata.get("ss_network_args", "")):
        for key, found in (("ss_network_dim", ranks), ("ss_network_alpha", seen["alphas"] or ranks)):
            stated = metadata.get(key, "")
            if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated) and not _fits(float(stated), set(map(float, found))):
                notes.append(_note("stated", key, f"{sorted(found)}, as the tensors are", stated, fix))
    stated = metadata.get("lorasynth.layout")
    if stated and stated != replace(layout, base=metadata.get("lorasynth.base", layout.base)).hash:
        notes.append(_note("layout", "lorasynth.layout", "its layout", f"modules of another than {stated}", fix))
    return notes


def _fits(stated: float, found: set[float]) -> bool:
    """Whether a number can be the general one of those found: one of them, or that of the three or four parts of fused layers."""
    return bool({stated, 3 * stated, 4 * stated} & found)
