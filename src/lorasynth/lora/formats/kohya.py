"""kohya's LoRA files, which diffusers, ComfyUI, A1111/Forge and kohya itself all read; for FLUX see `flux`.

``lora_unet_<module, dots as underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``: the effect of a module is
alpha / rank · up · down.
"""

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.lora.faults import refuse
from lorasynth.lora.formats import flux
from lorasynth.lora.formats.diffusers import is_transformer, named_factors
from lorasynth.lora.formats.scaling import Pairs, Scaled, Stored, check_alpha, header_config, pair, require_one_scale

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

_BASE_VERSIONS = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}


def to_state_dict(lora: "LoRA", dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by diffusers' converter, with alpha equal to rank, and the header's fields.

    NOTE: the header must not carry ``lora_adapter_metadata``: diffusers refuses a file that has it beside alphas. And where ranks
    differ there are no alphas, which every program takes for alpha = rank: diffusers (0.42) mixes up the names of alphas that
    differ, and would apply attention layers at a wrong scale with no more than a warning.

    Raises:
        UsageError: the base is a transformer other than FLUX, or has layers that kohya's files have no name for.
    """
    if is_transformer(lora.layout):
        return flux.to_state_dict(lora, dtype)
    from diffusers.utils import convert_state_dict_to_kohya

    tensors = convert_state_dict_to_kohya(named_factors(lora, "unet.", dtype))
    ranks = {m.rank for m in lora.layout.modules}
    for key in [key for key in tensors if key.endswith(".alpha")]:
        if len(ranks) == 1:
            tensors[key] = torch.tensor(float(tensors[key]))  # in float32: bfloat16 makes 256 of 257
        else:
            del tensors[key]
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    header = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    if lora.layout.base in _BASE_VERSIONS:
        header["ss_base_model_version"] = _BASE_VERSIONS[lora.layout.base]
    return tensors, header


def from_state_dict(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Stored:
    """Module name -> (lora_A, lora_B, alpha / rank), for a UNet or for FLUX; names by diffusers' converters.

    Raises:
        FaultyFileError: an alpha that cannot be meant or without its tensors, or names that the converters do not know.
    """
    layers = _layers(tensors)
    is_flux = any(flux.is_name(name) for name in layers)
    # kohya's SDXL files use the original repository's block names, which need to know the blocks' depth: 2 in every SD UNet.
    original = {name for name in layers if re.search("put_blocks_|middle_block_", name)}
    blocks = SimpleNamespace(layers_per_block=2) if original else None
    stored: Stored = {}
    names: dict[str, str] = {}
    # One layer at a time, as diffusers drops what it finds under two names. Scales never meet its converters: only names change.
    for name, (A, B, scaling) in layers.items():
        key = f"{name}.lora_down.weight"
        for module, halves in (flux.modules_of(name, A, B) if is_flux else _of_unet(name, A, B, blocks)).items():
            if module in stored:
                got = f"{names[module]}.lora_down.weight too"
                raise refuse("duplicate-module", key, "each module once", got, "remove one")
            stored[module], names[module] = Scaled(*halves, scaling), name
    if original and len(original) < len(layers):
        other = next(name for name in layers if name not in original)
        expected = "names that diffusers can tell apart, of one program"
        raise refuse("unknown-key", other, expected, f"{min(original)} beside it", "keep the names of one program")
    config = header_config(metadata, "transformer." if is_flux else "unet.")
    require_one_scale(stored, config, "its alpha says, or kohya's names without one")
    return stored


def _layers(tensors: Mapping[str, Tensor]) -> Stored:
    """The file's own name of a layer -> (lora_down, lora_up, alpha / rank)."""
    layers: Stored = {}
    for key, down in tensors.items():
        if key.endswith(".lora_down.weight"):
            name = key.removesuffix(".lora_down.weight")
            layers[name] = Scaled(down, tensors[f"{name}.lora_up.weight"], 1.0)
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            name = key.removesuffix(".alpha")
            if name not in layers:
                key = f"{name}.lora_down.weight"
                raise refuse("missing-half", key, "lora_down and lora_up for an alpha", "alpha alone", "get it again")
            A, B, _ = layers[name]
            check_alpha(key, float(tensor), len(A))
            layers[name] = Scaled(A, B, float(tensor) / len(A))
    return layers


def _of_unet(name: str, A: Tensor, B: Tensor, blocks: SimpleNamespace | None) -> Pairs:
    """The module of diffusers' UNet that a layer is, with its factors."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_unet_state_dict_to_peft

    tensors = {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B}
    try:
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors), unet_config=blocks)
    except (ValueError, KeyError, IndexError) as error:
        expected = "names of a Stable Diffusion UNet's modules"
        raise refuse("unknown-key", next(iter(tensors)), expected, f"{error}", "is it for another model?") from None
    return pair(convert_unet_state_dict_to_peft({key.removeprefix("unet."): t for key, t in named.items()}))
