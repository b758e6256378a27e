"""LoRAs brought to a layout: the modules that it has, each at its rank, and what that loses.

Many at once, as a call takes longer than the work on a small one. What a LoRA becomes does not depend on those beside it.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import LayoutError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.lora.products import update_inner

Brought = tuple[Float[Tensor, "N P"], list[float], list[float]]
"""The vectors; of each, ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules, and the part of ``‖ΔW‖²`` in modules that the layout lacks."""


def bring_to(lora: LoRA, layout: Layout, *, leave_out: bool = False) -> tuple[Float[Tensor, " P"], float]:
    """One LoRA's vector in a layout, and its relative error: `bring_all` of one.

    Raises:
        LayoutError: as `bring_all`.
    """
    vectors, errors, _ = bring_all(lora.layout, lora.vector[None], layout, leave_out=leave_out)
    return vectors[0], errors[0]


def bring_all(given: Layout, vectors: Float[Tensor, "N Q"], layout: Layout, *, leave_out: bool = False) -> Brought:
    """LoRAs of one layout in another of the same modules and other ranks.

    A higher rank is reached with zeros. A lower one by the leading singular directions of each update, which is the nearest
    update of that rank (Eckart & Young, 1936).

    Args:
        given: layout of the LoRAs.
        vectors: the LoRAs.
        layout: that they are brought to.
        leave_out: take LoRAs of more modules, too; what they do is part of the error.

    Raises:
        LayoutError: the modules are not the layout's, or the LoRAs say that they are for another base.
    """
    _require_modules(given, layout, leave_out=leave_out)
    if given.modules == layout.modules:
        return vectors, [0.0] * len(vectors), [0.0] * len(vectors)
    ranks = {m.name: m.rank for m in layout.modules}
    out2, cut2, whole2 = torch.zeros(3, len(vectors), dtype=torch.float64, device=vectors.device)
    factors = {}
    for name, (A, B) in given.split(vectors).items():
        norm2 = update_inner(A, B, A, B)
        whole2 += norm2
        if name not in ranks:
            out2 += norm2
            continue
        rank = ranks[name]
        if A.shape[1] > rank:
            A, B, S = canonical_factors(A, B)
            cut2 += S[:, rank:].square().sum(1)
            A, B = A[:, :rank], B[:, :, :rank]
        missing = rank - A.shape[1]
        factors[name] = (
            torch.nn.functional.pad(A, (0, 0, 0, missing)),
            torch.nn.functional.pad(B, (0, missing)),
        )
    some = whole2.clamp(min=torch.finfo(torch.float64).tiny)
    errors, left_out = ((out2 + cut2) / some).sqrt(), out2 / some
    return layout.join(factors), errors.tolist(), left_out.tolist()


def _require_modules(given: Layout, layout: Layout, *, leave_out: bool) -> None:
    if given.base not in ("", layout.base):
        raise LayoutError(
            f"expected a LoRA for {layout.base!r}, got one for {given.base!r}; import it into a zoo of its own"
        )
    if given.modules == layout.modules:
        return
    ranks = {m.name: m.rank for m in layout.modules}
    modules = tuple(
        replace(m, rank=ranks.get(m.name, m.rank))
        for m in given.modules
        if ranks.get(m.name, m.rank) <= min(m.in_features, m.out_features) and (m.name in ranks or not leave_out)
    )
    differences = layout.diff(Layout(base=layout.base, modules=modules)) if modules else [
        f"{m.name} is missing" for m in layout.modules
    ]  # fmt: skip
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise LayoutError(
            f"expected the {len(layout.modules)} modules of layout {layout.base!r}, got {len(given.modules)}: "
            f"{'; '.join(differences[:3])}{more}"
        )
