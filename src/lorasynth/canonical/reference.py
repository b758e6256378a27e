"""LoRAs of a zoo in one gauge: module by module, and the reference that the Procrustes gauge aligns them with."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.canonical.gauge import align_to, anchor_to
from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import ZooError
from lorasynth.lora.factors import delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.storage.rows import Rows, numbers_of, rows_at_once

Gauge = Literal["procrustes", "anchored"]
MAX_ROUNDS = 20
REFERENCE_ITEMS = 4_096
"""Of at most about so many, spread over the zoo, the Procrustes reference is the mean: all that it decides is a gauge."""


def generalised_procrustes(
    layout: Layout, vectors: Float[Tensor, "N P"] | Rows, chunk: int | None
) -> Float[Tensor, " P"]:
    """The mean of the zoo, or of items evenly spread over it, each item aligned with that mean.

    Args:
        layout: of the LoRAs.
        vectors: the zoo, in memory or on disk.
        chunk: items handled at once; by default `rows_at_once`.

    Raises:
        ZooError: one of the items is not finite.
    """
    size, numbers = chunk or rows_at_once(vectors), numbers_of(vectors)
    every = math.ceil(len(vectors) / REFERENCE_ITEMS)
    chosen = torch.arange(0, len(vectors), every, device="cpu")
    # 1. Begin with the largest update.
    norms2 = torch.cat([delta_W_norm2(layout, vectors[rows].double()) for rows in chosen.split(size)])
    largest = chosen[int(norms2.argmax())][None]
    reference = _balanced(layout, vectors[largest], numbers[largest])[0].double()
    # 2. Align all with the reference, take their mean as the next one, until it rests.
    for _ in range(MAX_ROUNDS):
        total = torch.zeros_like(reference)
        for rows in chosen.split(size):
            part = to_gauge(layout, vectors[rows], "procrustes", reference, numbers[rows])
            total += part.sum(0, dtype=torch.float64)
        before, reference = reference, total / len(chosen)
        if (reference - before).norm() <= 1e-6 * before.norm():
            break
    return reference.to(vectors.dtype)


def to_gauge(
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    gauge: Gauge,
    reference: Float[Tensor, " P"],
    items: Int[Tensor, " N"] | None = None,
    out: Float[Tensor, "N P"] | None = None,
) -> Float[Tensor, "N P"]:
    """Each module's factors in the gauge that ``reference`` fixes.

    Args:
        layout: of the LoRAs.
        vectors: some LoRAs, in memory.
        gauge: which.
        reference: a LoRA that belongs to the zoo as a whole.
        items: their numbers in the zoo, for messages; by default 0 … N - 1.
        out: where they go, perhaps ``vectors`` itself; by default new memory.

    Raises:
        ZooError: an item is not finite, or (anchored) its lora_A does not span the reference.
    """
    goal = {name: (A[0], B[0]) for name, (A, B) in layout.split(reference[None]).items()}

    def change(name: str, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        if gauge == "anchored":
            return anchor_to(A, B, goal[name][0], items=items)
        return align_to(*canonical_factors(A, B, items=items)[:2], *goal[name])

    return _each_module(layout, vectors, change, out)


def _balanced(layout: Layout, vectors: Float[Tensor, "N P"], items: Int[Tensor, " N"]) -> Float[Tensor, "N P"]:
    """Each module's factors by their SVD."""
    return _each_module(layout, vectors, lambda _, A, B: canonical_factors(A, B, items=items)[:2])


def _each_module(
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    change: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]],
    out: Float[Tensor, "N P"] | None = None,
) -> Float[Tensor, "N P"]:
    """Vectors with each module's factors changed. Errors say which module."""
    out = torch.empty_like(vectors) if out is None else out
    for name, (A_NRI, B_NOR) in layout.split(vectors).items():
        try:
            changed = change(name, A_NRI, B_NOR)
        except ZooError as error:
            raise ZooError(f"{name}: {error}") from None
        for place, factor in zip(layout.slices[name], changed, strict=True):
            out[:, place] = factor.flatten(1)
    return out
