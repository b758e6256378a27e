"""The items of a zoo whose updates are nearest to a LoRA's: was it copied, and whom is it like?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.zoo.importing.bringing import bring_to
from lorasynth.zoo.manifest import Item
from lorasynth.zoo.rows import open_rows
from lorasynth.zoo.store import Zoo

_NUMBERS = 2**22
"""Of some LoRAs that are looked at at once: 16 MB in float32."""
_ROUNDING = 2e-5
"""What float32 may be off by, relative to ``sum(‖A‖² ‖B‖²)``: 300 times its precision."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An item and how near it is.

    Attributes:
        id: of the item.
        person: whom it is of.
        split: which one they are in.
        relative_distance: ``‖ΔX - ΔY‖ / ‖ΔX‖`` of the LoRA X and the item Y: 0 is the same update, and 1 as far as none at all.
        cosine: ``<ΔX, ΔY> / (‖ΔX‖ ‖ΔY‖)``, which does not ask for their strength; 0 for an item that does nothing.
    """

    id: str
    person: int
    split: str
    relative_distance: float
    cosine: float


def nearest_items(zoo: Zoo, lora: LoRA, count: int = 5) -> list[Neighbour]:
    """The ``count`` items of a zoo with the least relative distance, nearest first.

    Distances are of updates, whatever the gauge and the ranks, by inner products without forming an update, in float64. What is
    below 1e-7 is rounding. Only items that may be among the nearest, as float32 has it, are compared in float64.

    Args:
        zoo: where to look.
        lora: of the zoo's modules, of any rank.
        count: how many, at least 1; fewer where the zoo is smaller.

    Raises:
        UsageError: the LoRA does nothing, so that nothing is near to it, or count is below 1.
        LayoutError: its modules are not the zoo's.
        ZooError: the zoo is empty or damaged.
    """
    if count < 1:
        raise UsageError(f"expected a count of at least 1, got {count}")
    if not zoo.items:
        raise ZooError(f"{zoo.folder}: expected LoRAs to compare with, got none; build the zoo first")
    ranks = {m.name: m.rank for m in lora.layout.modules}
    layout = Layout(
        base=zoo.layout.base,
        modules=tuple(replace(m, rank=max(m.rank, ranks.get(m.name, 0))) for m in zoo.layout.modules),
    )
    x = bring_to(lora, layout)[0][None].double()
    _, norm2_x, size_x = (float(value) for value in _compared(layout, x, x))
    if norm2_x <= 0:
        raise UsageError("expected an update, got zero everywhere; check the LoRA's training")
    # 1. All items, in float32, each with what its rounding may amount to.
    rough: list[tuple[float, float, Item]] = []
    by_shard: dict[str, list[Item]] = defaultdict(list)
    for item in zoo.items:
        by_shard[item.shard].append(item)
    for items in by_shard.values():
        inner, norm2, size = _all_compared(zoo, items, layout, x.float())
        slack = _ROUNDING * (size_x + size)
        squares = norm2_x - 2 * inner + norm2
        rough += zip((squares - slack).tolist(), (squares + slack).tolist(), items, strict=True)
    # 2. Those that may be among the nearest, in float64.
    limit = sorted(most for _, most, _ in rough)[:count][-1]
    near = [item for least, _, item in rough if least <= limit]
    inner, norm2, _ = _all_compared(zoo, near, layout, x)
    distances = ((norm2_x - 2 * inner + norm2).clamp(min=0) / norm2_x).sqrt()
    cosines = inner / (norm2_x * norm2).clamp(min=1e-300).sqrt()
    found = [
        Neighbour(id=item.id, person=item.person, split=item.split, relative_distance=distance, cosine=cosine)
        for item, distance, cosine in zip(near, distances.tolist(), cosines.tolist(), strict=True)
    ]
    return sorted(found, key=lambda one: (one.relative_distance, one.id))[:count]


def _all_compared(
    zoo: Zoo, items: Sequence[Item], layout: Layout, x: Float[Tensor, "1 Q"]
) -> tuple[Tensor, Tensor, Tensor]:
    """`_compared` of items, some at a time, in the precision of ``x``.

    Raises:
        ZooError: a LoRA is not finite.
    """
    rows, _ = open_rows(zoo.folder, items, zoo.layout.num_parameters)
    step = max(1, _NUMBERS // layout.num_parameters)
    parts = []
    for first in range(0, len(items), step):
        y = _with_zeros(rows[first : first + step].to(x.dtype), zoo.layout, layout)
        parts.append(_compared(layout, y, x))
        if not torch.isfinite(parts[-1][1]).all():
            raise ZooError(f"{zoo.folder} {items[first].shard}: a LoRA is not finite; run `lorasynth zoo repair`")
    inner, norm2, size = (torch.cat(each) for each in zip(*parts, strict=True))
    return inner, norm2, size


def _compared(
    layout: Layout, y: Float[Tensor, "N Q"], x: Float[Tensor, "1 Q"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """``<ΔY, ΔX>``, ``‖ΔY‖²``, and ``sum(‖A‖² ‖B‖²)`` over Y's modules, which their rounding errors are relative to."""
    inner, norm2, size = y.new_zeros(3, len(y))
    left, right = layout.split(y), layout.split(x)
    for name, (A_NRI, B_NOR) in left.items():
        C_SI, D_OS = (factor[0] for factor in right[name])
        of_A, of_B = A_NRI @ A_NRI.mT, B_NOR.mT @ B_NOR
        inner += ((B_NOR.mT @ D_OS) * (A_NRI @ C_SI.mT)).sum((1, 2))
        norm2 += (of_A * of_B).sum((1, 2))
        size += of_A.diagonal(dim1=1, dim2=2).sum(1) * of_B.diagonal(dim1=1, dim2=2).sum(1)
    return inner, norm2, size


def _with_zeros(vectors: Float[Tensor, "N P"], layout: Layout, larger: Layout) -> Float[Tensor, "N Q"]:
    """The same updates in a layout whose ranks are not lower."""
    if layout == larger:
        return vectors
    ranks = {m.name: m.rank for m in larger.modules}
    factors = {
        name: (
            torch.nn.functional.pad(A_NRI, (0, 0, 0, ranks[name] - A_NRI.shape[1])),
            torch.nn.functional.pad(B_NOR, (0, ranks[name] - B_NOR.shape[2])),
        )
        for name, (A_NRI, B_NOR) in layout.split(vectors).items()
    }
    return larger.join(factors)
