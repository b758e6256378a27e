"""FLUX's LoRAs under its original code's names, as kohya, ComfyUI and XLabs write them.

There a block's projections of query, key and value are one layer (``qkv``; in single blocks ``linear1``, with the feed-forward
too), where diffusers' model has three or four. Which ones, and in which rows, is known to diffusers' converter: it is asked for
one layer at a time, to read and to write alike.
"""

import itertools
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora.faults import FaultyFileError, refuse
from lorasynth.lora.formats.scaling import METADATA_KEY, Pairs, Scaled, Stored, header_config, pair, scaled_by

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

_BLOCKS = {
    "double_blocks": [
        f"{side}_{layer}" for side in ("img", "txt") for layer in ("attn_qkv", "attn_proj", "mlp_0", "mlp_2", "mod_lin")
    ],
    "single_blocks": ["linear1", "linear2", "modulation_lin"],
}
"""Layers of the original code's blocks, with underscores, as kohya spells them."""
_FUSED_ROWS = 7 * 3072  # of linear1, at FLUX's width: query, key, value and four of the feed-forward; three qkv fit too


def is_name(name: str) -> bool:
    """Whether a layer of a kohya file is FLUX's."""
    return any(blocks in name for blocks in _BLOCKS) or name.startswith("lora_transformer_")


def modules_of(name: str, A_RI: Tensor, B_OR: Tensor) -> Pairs:
    """The modules of diffusers' model that a layer of a kohya or ComfyUI file is, with their factors.

    Parts of a fused layer that are zero altogether were never trained, and are left out.

    Raises:
        FaultyFileError: diffusers knows no such layer, or not in this shape.
    """
    down = f"{name}.lora_down.weight"
    # alpha is the rank here, whatever the file says: scales never meet the converter.
    tensors = {down: A_RI, f"{name}.lora_up.weight": B_OR, f"{name}.alpha": torch.tensor(float(len(A_RI)))}
    found = _converted(tensors, down)
    spelled = name.removeprefix("lora_transformer_")
    if spelled != name and [module.replace(".", "_") for module in found] != [spelled]:
        raise refuse(
            "unknown-key", down, "a layer that diffusers has a name for", "another", "is it for another model?"
        )
    return found


def from_xlabs(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Stored:
    """Module name -> (lora_A, lora_B, scaling), for XLabs' files: they have no alphas, and diffusers obeys a header's scale.

    Raises:
        FaultyFileError: a layer that diffusers does not know, two that are one, or a header that does not fit.
    """
    stored: Stored = {}
    for key, A in tensors.items():
        if key.endswith(".down.weight"):
            up = f"{key.removesuffix('.down.weight')}.up.weight"
            for module, halves in _converted({key: A, up: tensors[up]}, key).items():
                if module in stored:
                    raise refuse("duplicate-module", key, "each module once", f"{module} again", "remove one")
                stored[module] = Scaled(*halves, 1.0)
    config = header_config(metadata, "transformer.")
    pairs = {module: (A, B) for module, (A, B, _) in stored.items()}
    return stored if config is None else scaled_by(pairs, config, METADATA_KEY)


def _converted(tensors: dict[str, Tensor], key: str) -> Pairs:
    """One layer's tensors by diffusers' converter."""
    from diffusers.loaders import FluxLoraLoaderMixin

    A, B = list(tensors.values())[:2]
    shapes = f"{tuple(A.shape)} and {tuple(B.shape)}"
    try:
        named = FluxLoraLoaderMixin.lora_state_dict(dict(tensors))
    except (ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        got = f"{shapes}, which diffusers does not know ({error or 'rows of another model'})"
        raise refuse("unknown-key", key, "a layer of FLUX.1, in its shape", got, "is it for another model?") from None
    found = pair({name.removeprefix("transformer."): tensor for name, tensor in named.items()})
    trained = {module: parts for module, parts in found.items() if parts[0].any() or parts[1].any()}
    return trained if len(found) > 1 and trained else found


@cache
def _original_layers() -> dict[str, dict[str, int]]:
    """Layers of FLUX's blocks, as kohya names them -> diffusers' modules that each is -> how many of `_FUSED_ROWS` each gets."""
    table: dict[str, dict[str, int]] = {}
    for blocks, layers in _BLOCKS.items():
        for number in itertools.count():
            names = [f"lora_unet_{blocks}_{number}_{layer}" for layer in layers]
            try:
                found = [modules_of(name, torch.zeros(1, 1), torch.zeros(_FUSED_ROWS, 1)) for name in names]
            except FaultyFileError:
                break  # the model has no more blocks
            table |= {
                name: {module: len(B) for module, (_, B) in modules.items()}
                for name, modules in zip(names, found, strict=True)
            }
    return table


def to_state_dict(lora: "LoRA", dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under kohya's names for FLUX, with alpha equal to rank, and the header's fields.

    Exact: R-rank factors of the k parts of a fused layer are one of rank k·R, lora_down their lora_A one below the other and
    lora_up block-diagonal, which diffusers' converter takes apart again into just these.

    Raises:
        UsageError: the base is not FLUX, or the layout has layers that cannot be written so.
    """
    if lora.layout.base != "flux":
        raise UsageError(
            f"expected format 'diffusers' or 'peft' for {lora.layout.base!r}, got 'kohya'; of transformers, only FLUX's files "
            "under kohya's names are read by diffusers"
        )
    factors = {name: (A_NRI[0], B_NOR[0]) for name, (A_NRI, B_NOR) in lora.layout.split(lora.vector[None]).items()}
    tensors: dict[str, Tensor] = {}
    for name, rows in _original_layers().items():
        parts = {module: factors.pop(module) for module in rows if module in factors}
        if parts:
            A, B = next(iter(parts.values())) if len(rows) == 1 else _fused(name, rows, parts)
            tensors[f"{name}.lora_down.weight"] = A.to(dtype).contiguous()
            tensors[f"{name}.lora_up.weight"] = B.to(dtype).contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(len(A)))
    if factors:
        raise UsageError(
            f"{next(iter(factors))}: expected layers of FLUX's blocks for format 'kohya', got another; choose 'diffusers' or "
            "'peft'"
        )
    ranks = {len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_down.weight")}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    header = {"ss_network_module": "networks.lora_flux", "ss_network_dim": rank, "ss_network_alpha": rank}
    return tensors, {**header, "ss_base_model_version": "flux1"}


def _fused(name: str, rows: dict[str, int], parts: Pairs) -> tuple[Tensor, Tensor]:
    """One layer's factors from those of its parts; a part that is not adapted gets zeros.

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
