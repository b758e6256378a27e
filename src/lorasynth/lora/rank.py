"""Ranks above a layer's width: trainers that give all layers of a model one rank write them for its narrow ones."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.formats.scaling import Scaled, Stored
from lorasynth.storage.faults import Fault, note


def within_widths(stored: Stored) -> list[Fault]:
    """Bring every rank above its layer's width down to the width, in place, and say where.

    An update has no more singular directions than its layer is wide, so nothing of it is lost.
    """
    wide = {name: len(A) for name, (A, B, _) in stored.items() if len(A) > min(A[0].numel(), len(B))}
    for name in wide:
        A, B, scaling = stored[name]
        stored[name] = Scaled(*_of_full_rank(A, B), scaling)
    if not wide:
        return []
    name = next(iter(wide))
    A, B, _ = stored[name]
    got = f"{wide[name]} for {A[0].numel()} -> {len(B)}" + (f", and {len(wide) - 1} more" if len(wide) > 1 else "")
    fix = f"none is needed if the layer has this width: the update is kept, at rank {len(A)}"
    what = f"a rank of at most {len(A)}, the layer's width"
    return [note("wide-rank", name, what, got, fix)]


def _of_full_rank(
    A: Float[Tensor, "R I *kernel"], B: Float[Tensor, "O R *one"]
) -> tuple[Float[Tensor, "M I *kernel"], Float[Tensor, "O M *one"]]:
    """Factors of the same product, of rank M = min(I, O): the product itself and a multiple of the identity matrix.

    NOTE: unlike a singular value decomposition this rounds nothing but the product, and takes no time for layers of thousands.
    The multiple is a power of two, which every type holds exactly, and makes both factors about as large.
    """
    product_OI = B.flatten(1).float() @ A.flatten(1).float()
    out, inputs = product_OI.shape
    largest = max(map(abs, torch.stack(product_OI.aminmax()).tolist()))
    step = 2.0 ** round(math.log2(largest) / 2) if 0 < largest < math.inf else 1.0
    one = torch.eye(min(out, inputs)) * step
    new_A, new_B = (one, product_OI.div_(step)) if inputs <= out else (product_OI.div_(step), one)
    return new_A.reshape(-1, *A.shape[1:]), new_B.reshape(out, -1, *B.shape[2:])
