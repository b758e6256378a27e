"""diffusers' readers of LoRA files, one for each base: the judges of what a file of that base means."""

from types import SimpleNamespace
from typing import Any

import torch

_LOADERS = {
    "flux": "FluxLoraLoaderMixin", "chroma": "FluxLoraLoaderMixin", "flux2": "Flux2LoraLoaderMixin",
    "sd3": "SD3LoraLoaderMixin", "qwen-image": "QwenImageLoraLoaderMixin", "z-image": "ZImageLoraLoaderMixin",
    "hunyuan-video": "HunyuanVideoLoraLoaderMixin", "wan": "WanLoraLoaderMixin", "auraflow": "AuraFlowLoraLoaderMixin",
}  # fmt: skip
"""Base -> diffusers' reader of its LoRAs; PixArt has none, UNets have StableDiffusionLoraLoaderMixin."""


def loader_of(base: str) -> Any:
    """Diffusers' reader of LoRAs for a base. None if it has none."""
    import diffusers.loaders as loaders

    if base in ("sd15", "sd2", "sdxl", "sdxl-refiner"):
        return loaders.StableDiffusionLoraLoaderMixin
    return getattr(loaders, _LOADERS[base]) if base in _LOADERS else None


def read_as_diffusers(base: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors as diffusers' reader for a base hands them to the model. A UNet's alphas are left to it.

    Raises:
        Exception: of any kind, as the reader raises it.
    """
    loader = loader_of(base)
    if loader.__name__ == "StableDiffusionLoraLoaderMixin":
        from diffusers.utils import convert_unet_state_dict_to_peft

        # 2 is the depth of the blocks of every UNet in the table.
        named, _ = loader.lora_state_dict(dict(tensors), unet_config=SimpleNamespace(layers_per_block=2))
        parts = {key.removeprefix("unet."): tensor for key, tensor in named.items() if not key.endswith(".alpha")}
        return dict(convert_unet_state_dict_to_peft(parts))
    return {key.removeprefix("transformer."): t for key, t in loader.lora_state_dict(dict(tensors)).items()}
