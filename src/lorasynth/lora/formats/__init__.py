"""Writers of the field's files, one module a format. `reading` reads all of them: a file need not be of one format."""

from collections.abc import Callable

import torch
from torch import Tensor

from lorasynth.lora.adapter import Adapter
from lorasynth.lora.formats import diffusers, kohya, peft

WRITERS: dict[str, Callable[[Adapter, torch.dtype], tuple[dict[str, Tensor], dict[str, str]]]] = {
    "kohya": kohya.to_state_dict,
    "diffusers": diffusers.to_state_dict,
    "peft": peft.to_state_dict,
}
"""Name -> function from (LoRA, dtype) to (tensors, header fields)."""
