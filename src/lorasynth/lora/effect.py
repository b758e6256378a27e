"""The gate's look at what a LoRA does, once its factors are known: how large it is."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Shaped

from lorasynth.lora.scaling import Stored
from lorasynth.storage.arrays import LARGEST_FLOAT32, Array, float64, largest_of_each
from lorasynth.storage.faults import Fault, note, refuse

_NUMBERS = 2**17  # of one factor at a time, in float64: a MB
_RANKS = 512  # at a time: their inner products have 2 MB, even where a rank is a layer's width


def norm_of(stored: Stored) -> float:
    """Frobenius norm of all updates, in float64."""
    return sum(update_norm2(A, B) * scaling**2 for A, B, scaling in stored.values()) ** 0.5


def update_norm2(lora_A: Shaped[np.ndarray, "R *I"], lora_B: Shaped[np.ndarray, "O R *one"]) -> float:
    """Squared Frobenius norm of one update ``B A``, in float64. Never below 0."""
    return max(update_inner(lora_A, lora_B, lora_A, lora_B), 0.0)


def update_inner(
    lora_A: Shaped[np.ndarray, "R *I"],
    lora_B: Shaped[np.ndarray, "O R *one"],
    other_A: Shaped[np.ndarray, "S *I"],
    other_B: Shaped[np.ndarray, "O S *one"],
) -> float:
    """Frobenius inner product of two updates ``<B A, D C> = sum((Bᵀ D) * (A Cᵀ))``, in float64, without forming an update."""
    others = list(_blocks(other_A, other_B))
    return sum(float(np.vdot(_products(B, D), _products(A, C))) for A, B in _blocks(lora_A, lora_B) for C, D in others)


def _blocks(lora_A: Array, lora_B: Array) -> Iterator[tuple[Array, Array]]:
    """Some ranks at a time of lora_A (R, I) and of lora_B turned (R, O)."""
    A_RI, B_RO = lora_A.reshape(len(lora_A), -1), lora_B.reshape(lora_B.shape[:2]).T
    for first in range(0, len(A_RI), _RANKS):
        yield A_RI[first : first + _RANKS], B_RO[first : first + _RANKS]


def _products(x_RN: Array, y_SN: Array) -> Float64[np.ndarray, "R S"]:
    """Inner products of rows, some columns at a time."""
    total = np.zeros((len(x_RN), len(y_SN)))
    step = max(1, _NUMBERS // max(total.shape))
    for first in range(0, x_RN.shape[1], step):
        x, y = float64(x_RN[:, first : first + step]), float64(y_SN[:, first : first + step])
        total += x @ y.T
    return total


def sizes_of(stored: Stored) -> dict[str, tuple[float, float]]:
    """The largest absolute numbers of each module's lora_A and lora_B, the scaling in lora_B.

    Raises:
        FaultyFileError: an update that F32 does not hold, be it by its scaling or by the product of its halves.
    """
    sizes = {}
    of_each = iter(largest_of_each(factor for A, B, _ in stored.values() for factor in (A, B)))
    for (name, (A, _, scaling)), of_A, of_B in zip(stored.items(), of_each, of_each, strict=True):
        of_B *= abs(scaling)
        sizes[name] = of_A, of_B
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
