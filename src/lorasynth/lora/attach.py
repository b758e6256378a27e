"""Putting a LoRA on a diffusers model and taking it off, with the checks that the loaders leave out.

diffusers logs a line and goes on when nothing, or half, of an adapter finds its place. Here that is an error.
"""

import re
from typing import Any

import torch
from torch import nn

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.compiled import require_uncompiled
from lorasynth.lora.formats.diffusers import named_factors
from lorasynth.lora.layout import Module


def attach(lora: Adapter, model: nn.Module, adapter_name: str) -> None:
    """See `LoRA.attach`."""
    require_uncompiled(model)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", adapter_name):
        raise UsageError(
            f"expected an adapter's name of letters, digits, '_' and '-', got {adapter_name!r:.80}; rename it"
        )
    if not hasattr(model, "load_lora_adapter"):
        raise UsageError(
            f"expected a diffusers model with load_lora_adapter, got {type(model).__name__}; give pipe.unet"
        )
    if adapter_name in getattr(model, "peft_config", {}):
        raise UsageError(f"the model has an adapter {adapter_name!r} already; detach it or choose another name")
    layers = dict(model.named_modules())
    for m in lora.layout.modules:
        layer: Any = layers.get(m.name)
        layer = getattr(layer, "base_layer", layer)  # an adapter may be there already
        if Module.of(m.name, layer, m.rank) != m:
            raise LayoutError(f"{m.name}: expected {m}, got {layer}; the LoRA is for base model {lora.layout.base!r}")
    model.load_lora_adapter(named_factors(lora, "unet.", torch.float32), prefix="unet", adapter_name=adapter_name)  # type: ignore[operator]
    try:
        _require_all_there(lora, model, adapter_name)
    except LayoutError:
        detach(model, adapter_name)
        raise


def _require_all_there(lora: Adapter, model: nn.Module, adapter_name: str) -> None:
    """Every module has exactly its factors, at scale 1, switched on."""
    layers: dict[str, Any] = dict(model.named_modules())
    for name in lora.layout.shapes:
        layer = layers[name]
        if adapter_name not in getattr(layer, "lora_A", {}) or adapter_name not in layer.active_adapters:
            raise LayoutError(
                f"{name}: expected an active adapter {adapter_name!r} after loading, got none; report this"
            )
        for which, ours in zip(("lora_A", "lora_B"), lora.factors(name), strict=True):
            theirs = getattr(layer, which)[adapter_name].weight.flatten(1)
            if not torch.equal(theirs, ours.to(theirs)):
                raise LayoutError(f"{name}: expected {which} as given, the model holds other numbers; report this")
        if layer.scaling[adapter_name] != 1:
            scaling = layer.scaling[adapter_name]
            raise LayoutError(f"{name}: expected scaling 1, the model applies {scaling}; report this")


def detach(model: nn.Module, adapter_name: str) -> None:
    """See `LoRA.detach`."""
    there = getattr(model, "peft_config", {})
    if adapter_name not in there:
        raise UsageError(f"the model has no adapter {adapter_name!r}, it has {sorted(there)}; nothing to detach")
    if len(there) > 1:
        model.delete_adapters(adapter_name)  # type: ignore[operator]
    else:
        model.unload_lora()  # type: ignore[operator]
