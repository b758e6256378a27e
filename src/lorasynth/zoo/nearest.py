"""The items of a zoo whose updates are nearest to a LoRA's: was it copied, and whom is it like?"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.factors import LoRA, delta_W_inner, delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.zoo.importing.candidates import bring_to
from lorasynth.zoo.store import Zoo

_CHUNK = 32


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
    below 1e-7 is rounding. One shard is in memory at a time.

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
    norm2_x = float(delta_W_norm2(layout, x))
    if norm2_x <= 0:
        raise UsageError("expected an update, got zero everywhere; check the LoRA's training")
    items = {item.id: item for item in zoo.items}
    found: list[tuple[float, float, str]] = []
    for shard in sorted({item.shard for item in zoo.items}):
        rows = zoo.rows(shard)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            y = _with_zeros(torch.stack([vector for _, vector, _ in part]).double(), zoo.layout, layout)
            inner, norm2_y = delta_W_inner(layout, y, x)[:, 0], delta_W_norm2(layout, y)
            if not torch.isfinite(norm2_y).all():
                raise ZooError(f"{zoo.folder} {shard}: a LoRA is not finite; run `lorasynth zoo repair`")
            distances = ((norm2_x - 2 * inner + norm2_y).clamp(min=0) / norm2_x).sqrt()
            cosines = inner / (norm2_x * norm2_y).clamp(min=1e-300).sqrt()
            found += zip(distances.tolist(), cosines.tolist(), [id for id, _, _ in part], strict=True)
    return [
        Neighbour(
            id=id, person=items[id].person, split=items[id].split, relative_distance=distance, cosine=cosine
        )
        for distance, cosine, id in sorted(found, key=lambda one: (one[0], one[2]))[:count]
    ]  # fmt: skip


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
