"""FLUX's LoRAs (and Chroma's) under its original code's names, as kohya and ComfyUI write them.

There a block's projections of query, key and value are one layer (``qkv``; in single blocks ``linear1``, with the feed-forward
too), where diffusers' model has three or four. Which ones, and in which rows, the table of `bases` has from diffusers' converter.
"""

from functools import cache

import torch
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora import bases
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.names import natural_order
from lorasynth.lora.products import Pairs

BASES = ("flux", "chroma")
"""Transformers whose files under kohya's names diffusers, ComfyUI and kohya all read."""


@cache
def _original_layers(base: str) -> dict[str, dict[str, int]]:
    """Layers of the blocks, as kohya names them -> diffusers' modules that each is -> how many rows each has.

    NOTE: what stands beside the blocks has names too, but diffusers 0.42 reads it under a name that its model has not.
    """
    (model,) = bases.of(base)
    return {
        f"lora_unet_{layer.replace('.', '_')}": {module: rows[0][1] - rows[0][0] for module, rows in parts}
        for layer, parts in model.layers.items()
        if "_blocks." in layer and ".processor." not in layer
    }


def to_state_dict(lora: Adapter, dtype: torch.dtype, base: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under kohya's names for FLUX, with alpha equal to rank, and the header's fields.

    Exact: R-rank factors of the k parts of a fused layer are one of rank k·R, lora_down their lora_A one below the other and
    lora_up block-diagonal. The converter of diffusers takes them apart again. Parts that share one lora_A, as a layer
    that was trained fused has them, stay of rank R.

    Raises:
        UsageError: the layout has layers that cannot be written so.
    """
    left = {m.name for m in lora.layout.modules}
    tensors: dict[str, Tensor] = {}
    for name, rows in _original_layers(base).items():
        parts = {module: lora.factors(module) for module in rows if module in left}
        left -= parts.keys()
        if parts:
            A, B = next(iter(parts.values())) if len(rows) == 1 else _fused(name, rows, parts)
            tensors[f"{name}.lora_down.weight"] = A.to(dtype).contiguous()
            tensors[f"{name}.lora_up.weight"] = B.to(dtype).contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(len(A)))
    if left:
        first = min(left, key=natural_order)
        raise UsageError(
            f"{first}: expected layers of FLUX's blocks for format 'kohya', got another; choose 'diffusers' or 'peft'"
        )
    ranks = {len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_down.weight")}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    header = {"ss_network_module": "networks.lora_flux", "ss_network_dim": rank, "ss_network_alpha": rank}
    return tensors, {**header, "ss_base_model_version": {"flux": "flux1"}.get(base, base)}


def _fused(name: str, rows: dict[str, int], parts: Pairs) -> tuple[Tensor, Tensor]:
    """One layer's factors from those of its parts. A part that is not adapted gets zeros.

    Parts that share their lora_A, as those of a layer that was trained fused, keep its rank: lora_up is theirs stacked.
    """
    ranks, widths = ({A.shape[i] for A, _ in parts.values()} for i in (0, 1))
    sizes = {module: len(B) for module, (_, B) in parts.items()}
    equal = len(set(rows.values())) == 1  # the converter cuts into equal parts, or else at FLUX's own widths
    sizes = {module: sizes.get(module, max(sizes.values()) if equal else fixed) for module, fixed in rows.items()}
    shared = next(iter(parts.values()))[0]
    if (
        (sizes == rows or equal)
        and parts.keys() == rows.keys()
        and all(torch.equal(A, shared) for A, _ in parts.values())
    ):
        return shared, torch.cat([parts[module][1] for module in rows])
    fits = len(ranks) == len(widths) == 1 and (len(set(sizes.values())) == 1 if equal else sizes == rows)
    if not fits or len(rows) * min(ranks) > min(*widths, sum(sizes.values())):
        shapes = ", ".join(f"{module} {tuple(A.shape)} and {tuple(B.shape)}" for module, (A, B) in parts.items())
        raise UsageError(
            f"{name}: expected parts of one rank in FLUX's shapes for format 'kohya', got {shapes}; choose 'diffusers' or 'peft'"
        )
    rank, width = ranks.pop(), widths.pop()
    halves = {m: parts.get(m, (torch.zeros(rank, width), torch.zeros(size, rank))) for m, size in sizes.items()}
    return torch.cat([A for A, _ in halves.values()]), torch.block_diag(*(B for _, B in halves.values()))
