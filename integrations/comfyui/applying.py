"""A LoRA on a ComfyUI MODEL by ComfyUI's own loader, with the check that the loader leaves to its log.

When nothing, or half, of a LoRA finds its place, ComfyUI logs a line and goes on; when a place has another shape, it does so
later, while it draws. Here either is an error, before anything is drawn.
"""

from typing import TYPE_CHECKING

import comfy.lora
import comfy.sd
import torch

from lorasynth.errors import LayoutError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.formats import WRITERS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

DTYPE = torch.float16
"""Of the numbers, on the MODEL and in the file alike: a saved LoRA is the one that was looked at."""
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"


def apply(lora: LoRA, model: "ModelPatcher", strength: float) -> "ModelPatcher":
    """A copy of the MODEL with the LoRA among its patches.

    Args:
        lora: of the architecture of ``model``.
        model: ComfyUI's MODEL; stays as it is.
        strength: what the LoRA's effect is multiplied by.

    Raises:
        LayoutError: a module of the LoRA has no place in the model, or one of another shape.
    """
    tensors, _ = WRITERS["kohya"](lora, DTYPE)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)
    _require_all_applied(lora, tensors, model, patched)
    return patched


def _require_all_applied(
    lora: LoRA, tensors: dict[str, torch.Tensor], model: "ModelPatcher", patched: "ModelPatcher"
) -> None:
    """Each module has one more patch than before, on a weight of its own shape."""
    places = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = model.model.state_dict()
    modules = [key.removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)]
    wrong = []
    for module in modules:
        shape = (tensors[module + _UP].shape[0], tensors[module + _DOWN].shape[1])
        place = places.get(module)
        if place is None or len(patched.patches.get(place, ())) != len(model.patches.get(place, ())) + 1:
            wrong.append(f"{module} has no place in it")
        elif (found := tuple(weights[place].flatten(1).shape)) != shape:
            wrong.append(f"{module} is of shape {shape}, its place of {found}")
    if wrong:
        raise LayoutError(
            f"expected a MODEL that takes all {len(modules)} modules of the LoRA, got one that takes "
            f"{len(modules) - len(wrong)}: {wrong[0]}. The synthesizer is for base model {lora.layout.base!r}; load a "
            "checkpoint of that"
        )
