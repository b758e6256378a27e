"""The gate's look at what a LoRA does, once its factors are known: how large it is."""

import numpy as np
from jaxtyping import Shaped

from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import LARGEST_FLOAT32, float64, largest_of
from lorasynth.storage.faults import Fault, note, refuse

_NUMBERS = 2**19  # of one factor at a time, in float64: some MB, even where a rank is a layer's width


def norm_of(stored: Stored) -> float:
    """Frobenius norm of all updates, in float64."""
    return sum(update_norm2(A, B) * scaling**2 for A, B, scaling in stored.values()) ** 0.5


def update_norm2(lora_A: Shaped[np.ndarray, "R *I"], lora_B: Shaped[np.ndarray, "O R *one"]) -> float:
    """Squared Frobenius norm of one update ``B A``, in float64. Never below 0.

    ``‖B A‖² = sum((Bᵀ B) * (A Aᵀ))``, some ranks at a time, without forming the update.
    """
    A_RI, B_OR = lora_A.reshape(len(lora_A), -1), lora_B.reshape(lora_B.shape[:2])
    step = max(64, _NUMBERS // max(A_RI.shape[1], len(B_OR)))
    starts = range(0, len(A_RI), step)
    total = 0.0
    for first in starts:
        A, B = float64(A_RI[first : first + step]), float64(B_OR[:, first : first + step])
        total += float(np.vdot(B.T @ B, A @ A.T))
        for second in starts[first // step + 1 :]:  # the other order of two has the same product
            C, D = float64(A_RI[second : second + step]), float64(B_OR[:, second : second + step])
            total += 2 * float(np.vdot(B.T @ D, A @ C.T))
    return max(total, 0.0)


def sizes_of(stored: Stored) -> dict[str, tuple[float, float]]:
    """The largest absolute numbers of each module's lora_A and lora_B, the scaling in lora_B.

    Raises:
        FaultyFileError: an update that F32 does not hold, be it by its scaling or by the product of its halves.
    """
    sizes = {}
    for name, (A, B, scaling) in stored.items():
        of_A, of_B = sizes[name] = largest_of(A), largest_of(B) * abs(scaling)
        if not max(of_B, len(A) * of_A * of_B) <= LARGEST_FLOAT32:  # nor if that is no number
            got = f"a product of numbers up to {of_A:.3g} and {of_B:.3g}"
            raise refuse("too-large", name, "an update that fits F32", got, "check the training")
    return sizes


def check_effect(sizes: dict[str, tuple[float, float]], norm: float | None) -> list[Fault]:
    """Updates that are zero, or that float16 changes.

    Args:
        sizes: of each module, by `sizes_of`.
        norm: of all updates; None where it was not asked for.
    """
    notes: list[Fault] = []
    zero = [name for name, parts in sizes.items() if min(parts) == 0]
    if norm == 0 or len(zero) == len(sizes):
        notes.append(note("all-zero", "*", "an update", "zero everywhere: the file does nothing", "check the training"))
    elif zero:
        what = f"zero, as in {len(zero)} of {len(sizes)} modules"
        notes.append(note("zero-pair", zero[0], "an update", what, "check the training"))
    for name, parts in sizes.items():
        if any(0 < size < 6e-8 for size in parts):
            what, fix = "all numbers below 6e-8, which vanish in float16", "scale lora_A up and lora_B down"
            notes.append(note("vanishing", name, "larger ones", what, fix))
        if max(parts) > 65_504:
            what, fix = f"{max(parts):.3g}, which float16 cannot hold", "check the training"
            notes.append(note("overflowing", name, "at most 65504", what, fix))
    return notes
