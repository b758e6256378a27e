"""The files of the field, one module a format; inside the house there is one representation only."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.lora.formats import diffusers, flux, kohya, peft
from lorasynth.lora.formats.scaling import Stored

if TYPE_CHECKING:
    from lorasynth.lora.factors import LoRA

WRITERS: dict[str, Callable[["LoRA", torch.dtype], tuple[dict[str, Tensor], dict[str, str]]]] = {
    "kohya": kohya.to_state_dict,
    "diffusers": diffusers.to_state_dict,
    "peft": peft.to_state_dict,
}
"""Name -> function from (LoRA, dtype) to (tensors, header fields)."""

READERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, str]], Stored]] = {
    "kohya": kohya.from_state_dict,
    "xlabs": flux.from_xlabs,
    "diffusers": diffusers.from_state_dict,
    "peft": peft.from_state_dict,
}
"""Name -> function from (tensors, metadata) to module name -> (lora_A, lora_B, scaling)."""
