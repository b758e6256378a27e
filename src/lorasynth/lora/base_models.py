"""The published models of the known bases, built by diffusers on PyTorch's meta device: no weights, no download."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from lorasynth.lora.bases import Shape
from lorasynth.lora.layout import Module


@cache
def unet(**config: Any) -> Any:
    """A UNet2DConditionModel on the meta device."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@cache
def transformer(name: str, **config: Any) -> Any:
    """The transformer of that class name in diffusers, on the meta device."""
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, name)(**config)


def sd15_unet() -> Any:
    """Stable Diffusion 1.5's UNet: 859,520,964 parameters, diffusers' defaults but for the text width."""
    return unet(sample_size=64, cross_attention_dim=768)


def sd2_unet() -> Any:
    """Stable Diffusion 2's UNet: 865,910,724 parameters."""
    return unet(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )


def sdxl_unet() -> Any:
    """Stable Diffusion XL's UNet: 2,567,463,684 parameters."""
    return unet(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sdxl_refiner_unet() -> Any:
    """The UNet of Stable Diffusion XL's refiner."""
    return unet(
        sample_size=128, cross_attention_dim=1280, block_out_channels=(384, 768, 1536, 1536), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=4, attention_head_dim=(6, 12, 24, 24), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2560,
    )  # fmt: skip


def sd3_transformer() -> Any:
    """Stable Diffusion 3 medium's transformer: 2,028,328,000 parameters."""
    return transformer(
        "SD3Transformer2DModel", sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
        pos_embed_max_size=192,
    )  # fmt: skip


def flux_transformer() -> Any:
    """FLUX.1-dev's transformer: 11,901,408,320 parameters, diffusers' defaults, with guidance as an input."""
    return transformer("FluxTransformer2DModel", guidance_embeds=True)


def _sd35(**config: Any) -> Any:
    return transformer("SD3Transformer2DModel", sample_size=128, qk_norm="rms_norm", **config)


def _wan(**config: Any) -> Any:
    return transformer("WanTransformer3DModel", **config)


def _pixart(**config: Any) -> Any:
    return transformer("PixArtTransformer2DModel", caption_channels=4096, **config)


def _flux2(**config: Any) -> Any:
    return transformer("Flux2Transformer2DModel", **config)


MODELS: dict[str, dict[str, Callable[[], Any]]] = {
    "sd15": {"sd15": sd15_unet},
    "sd2": {"sd2": sd2_unet},
    "sdxl": {"sdxl": sdxl_unet},
    "sdxl-refiner": {"sdxl-refiner": sdxl_refiner_unet},
    "sd3": {
        "sd3-medium": sd3_transformer,
        "sd3.5-medium": lambda: _sd35(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
        ),
        "sd3.5-large": lambda: _sd35(
            num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192
        ),
    },
    "flux": {"flux.1-dev": flux_transformer},
    "flux2": {
        "flux.2-dev": lambda: _flux2(),
        "flux.2-klein-4b": lambda: _flux2(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ),
        "flux.2-klein-9b": lambda: _flux2(
            num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, guidance_embeds=False
        ),
    },
    "chroma": {"chroma1": lambda: transformer("ChromaTransformer2DModel")},
    "qwen-image": {"qwen-image": lambda: transformer("QwenImageTransformer2DModel")},
    "z-image": {"z-image": lambda: transformer("ZImageTransformer2DModel")},
    "hunyuan-video": {"hunyuan-video": lambda: transformer("HunyuanVideoTransformer3DModel")},
    "wan": {
        "wan2.1-t2v-1.3b": lambda: _wan(num_attention_heads=12, ffn_dim=8960, num_layers=30),
        "wan2.1-t2v-14b": lambda: _wan(),
        "wan2.1-i2v-14b": lambda: _wan(in_channels=36, image_dim=1280, added_kv_proj_dim=5120),
        "wan2.2-i2v-14b": lambda: _wan(in_channels=36),
        "wan2.2-ti2v-5b": lambda: _wan(
            num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48
        ),
    },
    "auraflow": {"auraflow": lambda: transformer("AuraFlowTransformer2DModel")},
    "pixart": {
        "pixart-alpha": lambda: _pixart(use_additional_conditions=True),
        "pixart-sigma": lambda: _pixart(use_additional_conditions=False),
    },
}  # fmt: skip
"""Base -> its variants -> function that builds the model."""


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Every layer of a model that a LoRA can adapt -> (in, out, kernel)."""
    found = {name: Module.of(name, layer, 1) for name, layer in model.named_modules()}
    return {name: (m.in_features, m.out_features, m.kernel) for name, m in found.items() if m is not None}
