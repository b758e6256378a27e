"""The gate's look at what a LoRA does, once its factors are known: how large it is."""

import torch

from lorasynth.lora.formats.scaling import Pairs, largest_of
from lorasynth.lora.products import update_norm2
from lorasynth.storage.faults import Fault, note, refuse


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


def check_effect(pairs: Pairs, norm: float) -> list[Fault]:
    """Updates that are zero, or that float16 changes."""
    notes: list[Fault] = []
    largest = {name: [largest_of(part) for part in pair] for name, pair in pairs.items()}
    zero = [name for name, sizes in largest.items() if min(sizes) == 0]
    if norm == 0:
        notes.append(note("all-zero", "*", "an update", "zero everywhere: the file does nothing", "check the training"))
    elif zero:
        what = f"zero, as in {len(zero)} of {len(pairs)} modules"
        notes.append(note("zero-pair", zero[0], "an update", what, "check the training"))
    for name, sizes in largest.items():
        if any(0 < size < 6e-8 for size in sizes):
            what, fix = "all numbers below 6e-8, which vanish in float16", "scale lora_A up and lora_B down"
            notes.append(note("vanishing", name, "larger ones", what, fix))
        if max(sizes) > 65_504:
            what, fix = f"{max(sizes):.3g}, which float16 cannot hold", "check the training"
            notes.append(note("overflowing", name, "at most 65504", what, fix))
    return notes
