"""diffusers' own LoRA files: ``unet.<module>.lora_A.weight``, ``transformer.<module>…`` for FLUX and Stable Diffusion 3.

A UNet's two older styles are read too, by diffusers' converters.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasynth.lora.faults import refuse
from lorasynth.lora.formats.scaling import (
    METADATA_KEY,
    Scaled,
    Stored,
    check_alpha,
    header_config,
    pair,
    require_one_scale,
    scaled_by,
)

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.layout import Layout


def is_transformer(layout: "Layout") -> bool:
    """Whether its base is a diffusion transformer, as FLUX and Stable Diffusion 3 are, and not a UNet."""
    blocks = ("transformer_blocks.", "single_transformer_blocks.")
    return layout.base in ("flux", "sd3") or any(m.name.startswith(blocks) for m in layout.modules)


def to_state_dict(lora: "LoRA", dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the newest style and their header. alpha equals rank, so a reader that ignores the header is right too."""
    prefix = "transformer." if is_transformer(lora.layout) else "unet."
    config = {f"{prefix}{field}": value for field, value in peft_config(lora).items()}
    return named_factors(lora, prefix, dtype), {METADATA_KEY: json.dumps(config, sort_keys=True)}


def named_factors(lora: "LoRA", prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """``<prefix><module>.lora_A.weight`` and ``….lora_B.weight`` of every module; a convolution's as kernels."""
    tensors = {}
    factors = lora.layout.split(lora.vector[None])
    for m in lora.layout.modules:
        A_RI, B_OR = (factor[0].to(dtype).contiguous() for factor in factors[m.name])
        if m.kernel is not None:
            A_RI, B_OR = A_RI.view(m.rank, -1, *m.kernel), B_OR[..., None, None]
        tensors[f"{prefix}{m.name}.lora_A.weight"], tensors[f"{prefix}{m.name}.lora_B.weight"] = A_RI, B_OR
    return tensors


def peft_config(lora: "LoRA") -> dict[str, Any]:
    """The LoraConfig of an adapter with alpha equal to rank in every module."""
    ranks = {m.name: m.rank for m in lora.layout.modules}
    most = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {f"^{name}": rank for name, rank in ranks.items() if rank != most}
    return {
        "r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": dict(others),
        "target_modules": sorted(ranks), "use_rslora": False, "use_dora": False,
    }  # fmt: skip


def from_state_dict(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Stored:
    """Module name -> (lora_A, lora_B, scaling); the scaling is the header's, or a transformer's alphas', or 1.

    Raises:
        FaultyFileError: the header's adapter metadata is not JSON or does not fit, or a tensor is no part of a LoRA of a UNet or
            a transformer.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft

    prefix = "transformer." if any(key.startswith("transformer.") for key in tensors) else "unet."
    alphas = {key.removesuffix(".alpha"): tensor for key, tensor in tensors.items() if key.endswith(".alpha")}
    config = header_config(metadata, prefix)
    flat: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.endswith(".alpha"):
            (name,) = convert_unet_state_dict_to_peft({key.removeprefix(prefix): tensor})
            if name in flat:
                raise refuse("duplicate-module", key, "each module once", "it again under another name", "remove one")
            flat[name] = tensor
    pairs = pair(flat)
    if config is not None and not alphas:
        return scaled_by(pairs, config, METADATA_KEY)
    stored = {name: Scaled(A, B, 1.0) for name, (A, B) in pairs.items()}
    for module, tensor in alphas.items():
        name = module.removeprefix(prefix)
        if name not in stored:
            key = f"{module}.lora_A.weight"
            raise refuse("missing-half", key, "lora_A and lora_B for an alpha", "alpha alone", "get it again")
        A, B, _ = stored[name]
        check_alpha(f"{module}.alpha", float(tensor), len(A))
        stored[name] = Scaled(A, B, float(tensor) / len(A))
    require_one_scale(stored, config, "its alpha says")
    return stored
