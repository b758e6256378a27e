"""kohya's LoRA files, which diffusers, ComfyUI, A1111/Forge and kohya itself all read.

``lora_unet_<module, dots as underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``: the effect of a module is
alpha / rank · up · down.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.lora.faults import FaultyFileError, refuse
from lorasynth.lora.formats.diffusers import METADATA_KEY, named_factors
from lorasynth.lora.formats.scaling import Pairs, check_alpha, pair, scaled

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

_BASE_VERSIONS = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}


def to_state_dict(lora: "LoRA", dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by diffusers' converter, with alpha equal to rank, and the header's fields.

    NOTE: the header must not carry ``lora_adapter_metadata``: diffusers refuses a file that has it beside alphas. And where ranks
    differ there are no alphas, which every program takes for alpha = rank: diffusers (0.42) mixes up the names of alphas that
    differ, and would apply attention layers at a wrong scale with no more than a warning.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    tensors = convert_state_dict_to_kohya(named_factors(lora, "unet.", dtype))
    ranks = {m.rank for m in lora.layout.modules}
    for key in [key for key in tensors if key.endswith(".alpha")]:
        if len(ranks) == 1:
            tensors[key] = torch.tensor(float(tensors[key]), dtype=dtype)
        else:
            del tensors[key]
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    header = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    if lora.layout.base in _BASE_VERSIONS:
        header["ss_base_model_version"] = _BASE_VERSIONS[lora.layout.base]
    return tensors, header


def from_state_dict(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Pairs:
    """Module name -> (lora_A, lora_B), each module's alpha / rank folded in; names by diffusers' converters.

    Raises:
        FaultyFileError: an alpha that cannot be meant or without its tensors, or names that the converters do not know.
    """
    if METADATA_KEY in metadata:
        fix = "remove it from the header, diffusers refuses both"
        got = next((f"{key} too" for key in tensors if key.endswith(".alpha")), "it beside kohya's names")
        raise refuse("two-scales", METADATA_KEY, "the scale in one place, kohya's alphas", got, fix)
    # Scales first, while names are the file's own: afterwards only names change.
    ready = {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}
    for key in tensors.keys() - ready.keys():
        down, up = (f"{key.removesuffix('.alpha')}.lora_{half}.weight" for half in ("down", "up"))
        if down not in ready or up not in ready:
            raise refuse("missing-half", down, "lora_down and lora_up for an alpha", "alpha alone", "get it again")
        alpha, rank = float(tensors[key]), len(ready[down])
        check_alpha(key, alpha, rank)
        ready[down], ready[up] = scaled(ready[down], ready[up], alpha / rank)
    flat = _named_as_diffusers(ready)
    if len(flat) != len(ready):
        raise _same_module(ready)
    return {name: scaled(A, B, 1.0) for name, (A, B) in pair(flat).items()}


def _named_as_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of kohya's -> ``<module>.lora_A.weight`` and ``.lora_B.weight``, by diffusers' converters."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_unet_state_dict_to_peft

    # kohya's SDXL files use the original repository's block names, which need to know the blocks' depth: 2 in every SD UNet.
    sgm_blocks = any("put_blocks_" in key or "middle_block_" in key for key in tensors)
    blocks = SimpleNamespace(layers_per_block=2) if sgm_blocks else None
    try:
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors), unet_config=blocks)
    except (ValueError, KeyError, IndexError) as error:
        expected = "names of a Stable Diffusion UNet's modules"
        raise refuse("unknown-key", next(iter(tensors)), expected, f"{error}", "is it for another model?") from None
    return convert_unet_state_dict_to_peft({key.removeprefix("unet."): t for key, t in named.items()})


def _same_module(tensors: Mapping[str, Tensor]) -> FaultyFileError:
    """The first two tensors that are one to diffusers: converted one module at a time, as together they are no longer two."""
    found: dict[str, str] = {}
    for key in (key for key in tensors if key.endswith(".lora_down.weight")):
        up = key.replace(".lora_down.", ".lora_up.")
        for name in _named_as_diffusers({key: tensors[key], up: tensors[up]}):
            if found.setdefault(name, key) != key:
                return refuse("duplicate-module", key, "each module once", f"{found[name]} too", "remove one")
    fix = "is it for another model?"
    expected = f"{len(tensors)} names that diffusers can tell apart"
    return refuse("unknown-key", next(iter(tensors)), expected, "fewer", fix)
