"""Writers of the field's files, one module a format. `reading` reads all of them: a file need not be of one format."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.lora.formats import diffusers, kohya, peft

if TYPE_CHECKING:
    from lorasynth.lora.writing import Writable

WRITERS: dict[str, Callable[["Writable", torch.dtype], tuple[dict[str, Tensor], dict[str, str]]]] = {
    "kohya": kohya.to_state_dict,
    "diffusers": diffusers.to_state_dict,
    "peft": peft.to_state_dict,
}
"""Name -> function from (LoRA, dtype) to (tensors, header fields)."""
