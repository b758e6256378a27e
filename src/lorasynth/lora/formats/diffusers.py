"""diffusers' own LoRA files: ``unet.<module>.lora_A.weight`` and the two older styles, read by diffusers' converters."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lorasynth.lora.faults import refuse
from lorasynth.lora.formats.scaling import Pairs, fold, pair

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

METADATA_KEY = "lora_adapter_metadata"


def to_state_dict(lora: "LoRA", dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the newest style and their header. alpha equals rank, so a reader that ignores the header is right too."""
    config = {f"unet.{field}": value for field, value in peft_config(lora).items()}
    return named_factors(lora, "unet.", dtype), {METADATA_KEY: json.dumps(config, sort_keys=True)}


def named_factors(lora: "LoRA", prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """``<prefix><module>.lora_A.weight`` and ``….lora_B.weight`` of every module."""
    tensors = {}
    for name, (A_NRI, B_NOR) in lora.layout.split(lora.vector[None]).items():
        tensors[f"{prefix}{name}.lora_A.weight"] = A_NRI[0].to(dtype).contiguous()
        tensors[f"{prefix}{name}.lora_B.weight"] = B_NOR[0].to(dtype).contiguous()
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


def from_state_dict(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Pairs:
    """Module name -> (lora_A, lora_B), with the scaling of the header folded in (without one, alpha is the rank).

    Raises:
        FaultyFileError: the header's adapter metadata is not JSON or does not fit, or a tensor is no part of a UNet's LoRA.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft

    config: Any = {}
    if text := metadata.get(METADATA_KEY):
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise refuse("bad-metadata", METADATA_KEY, "JSON", f"{error}", "save the LoRA again") from None
        if not isinstance(config, dict):
            raise refuse("bad-metadata", METADATA_KEY, "an object", type(config).__name__, "save the LoRA again")
        config = {key.removeprefix("unet."): value for key, value in config.items()}
    flat: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        (name,) = convert_unet_state_dict_to_peft({key.removeprefix("unet."): tensor})
        if name in flat:
            raise refuse("duplicate-module", key, "each module once", "it again under another name", "remove one")
        flat[name] = tensor
    return fold(pair(flat), config, METADATA_KEY)
