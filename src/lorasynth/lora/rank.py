"""Ranks above a layer's width: trainers that give all layers of a model one rank write them for its narrow ones."""

import math

import numpy as np
from jaxtyping import Float32, Shaped

from lorasynth.lora.scaling import Scaled, Stored
from lorasynth.storage.arrays import float32, largest_of
from lorasynth.storage.faults import Fault, note


def within_widths(stored: Stored) -> list[Fault]:
    """Bring every rank above its layer's width down to the width, in place, and say where.

    An update has no more singular directions than its layer is wide, so nothing of it is lost.
    """
    wide = {name: len(A) for name, (A, B, _) in stored.items() if len(A) > min(math.prod(A.shape[1:]), len(B))}
    for name in wide:
        A, B, scaling = stored[name]
        stored[name] = Scaled(*_of_full_rank(A, B), scaling)
    if not wide:
        return []
    name = next(iter(wide))
    A, B, _ = stored[name]
    got = f"{wide[name]} for {math.prod(A.shape[1:])} -> {len(B)}" + (
        f", and {len(wide) - 1} more" if len(wide) > 1 else ""
    )
    fix = f"none is needed if the layer has this width: the update is kept, at rank {len(A)}"
    what = f"a rank of at most {len(A)}, the layer's width"
    return [note("wide-rank", name, what, got, fix)]


def _of_full_rank(
    lora_A: Shaped[np.ndarray, "R I *kernel"], lora_B: Shaped[np.ndarray, "O R *one"]
) -> tuple[Float32[np.ndarray, "M I *kernel"], Float32[np.ndarray, "O M *one"]]:
    """Factors of the same product, of rank M = min(I, O): the product itself and a multiple of the identity matrix.

    NOTE: unlike a singular value decomposition this rounds nothing but the product, and takes no time for layers of thousands.
    The multiple is a power of two, which every type holds exactly, and makes both factors about as large.
    """
    A_RI, B_OR = float32(lora_A).reshape(len(lora_A), -1), float32(lora_B).reshape(lora_B.shape[:2])
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused afterwards
        product_OI = B_OR @ A_RI
    out, inputs = product_OI.shape
    largest = largest_of(product_OI)
    step = np.float32(2.0 ** round(math.log2(largest) / 2) if 0 < largest < math.inf else 1.0)
    one = np.eye(min(out, inputs), dtype=np.float32) * step
    product_OI /= step
    A, B = (one, product_OI) if inputs <= out else (product_OI, one)
    return A.reshape(-1, *lora_A.shape[1:]), B.reshape(out, -1, *lora_B.shape[2:])
