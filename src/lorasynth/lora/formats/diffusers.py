"""diffusers' own LoRA files: ``unet.<module>.lora_A.weight``, ``transformer.<module>…`` for transformers."""

import json
from typing import Any

import torch
from torch import Tensor

from lorasynth.errors import UsageError
from lorasynth.lora import bases
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.layout import Layout
from lorasynth.lora.scaling import METADATA_KEY


def is_transformer(layout: Layout) -> bool:
    """Whether its base is a diffusion transformer, as FLUX and Stable Diffusion 3 are, and not a UNet.

    Raises:
        UsageError: by its modules it is neither, so that no loader of diffusers would find them.
    """
    models = bases.of(layout.base) or bases.fitting(layout.shapes)
    if models:
        return not models[0].is_unet
    names = [m.name for m in layout.modules]
    if all(bases.unet_name(name) == name for name in names):
        return False
    if any(all(model.has_name_like(name) for name in names) for model in bases.variants()):
        return True
    strange = next(name for name in names if bases.unet_name(name) != name)
    raise UsageError(
        f"{strange}: expected a module of a UNet or a transformer that diffusers has, got another; choose format 'peft', which "
        "keeps names as they are"
    )


def to_state_dict(lora: Adapter, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the newest style and their header. alpha equals rank, so a reader that ignores the header is right too."""
    prefix = "transformer." if is_transformer(lora.layout) else "unet."
    config = {f"{prefix}{field}": value for field, value in peft_config(lora).items()}
    return named_factors(lora, prefix, dtype), {METADATA_KEY: json.dumps(config, sort_keys=True)}


def named_factors(lora: Adapter, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """``<prefix><module>.lora_A.weight`` and ``….lora_B.weight`` of every module. A convolution's as kernels."""
    tensors = {}
    for m in lora.layout.modules:
        A_RI, B_OR = (factor.to(dtype).contiguous() for factor in lora.factors(m.name))
        if m.kernel is not None:
            A_RI, B_OR = A_RI.view(m.rank, -1, *m.kernel), B_OR[..., None, None]
        tensors[f"{prefix}{m.name}.lora_A.weight"], tensors[f"{prefix}{m.name}.lora_B.weight"] = A_RI, B_OR
    return tensors


def peft_config(lora: Adapter) -> dict[str, Any]:
    """The LoraConfig of an adapter with alpha equal to rank in every module."""
    ranks = {m.name: m.rank for m in lora.layout.modules}
    most = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {f"^{name}": rank for name, rank in ranks.items() if rank != most}
    return {
        "r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": dict(others),
        "target_modules": sorted(ranks), "use_rslora": False, "use_dora": False,
    }  # fmt: skip
