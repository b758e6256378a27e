"""Layouts by name: what people adapt in the base models that everybody knows.

Each is read off the real architecture, built from its published configuration on PyTorch's meta device: no weights, no download,
a few seconds the first time (most of them to import diffusers).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from lorasynth.lora.layout import Layout

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""diffusers' default targets: every projection of self- and cross-attention."""

JOINT_ATTENTION = (
    "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v",
)  # fmt: skip
"""diffusers' default targets where text and image share one attention: the projections of both."""

TRANSFORMER = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
"""What kohya's trainer adapts in a UNet by default: all layers of its transformers, 1 x 1 convolutions included."""

FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
"""What diffusers' FLUX training adds to them by default: the feed-forward layers of image and text."""


@cache
def _sd15_unet() -> Any:
    """Stable Diffusion 1.5's UNet: 859,520,964 parameters; diffusers' defaults but for the text width."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


@cache
def _sdxl_unet() -> Any:
    """Stable Diffusion XL's UNet: 2,567,463,684 parameters."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip


@cache
def _sd3_transformer() -> Any:
    """Stable Diffusion 3 medium's transformer: 2,028,328,000 parameters."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel(
            sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        )


@cache
def _flux_transformer() -> Any:
    """FLUX.1-dev's transformer: 11,901,408,320 parameters; diffusers' defaults, with guidance as an input."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


@cache
def sd15_w2w(rank: int) -> Layout:
    """weights2weights' layout: to_q and to_v of both attentions; 64 modules, 99,648 parameters at rank 1 (arXiv 2406.09413)."""
    return Layout.from_model(_sd15_unet(), ("to_q", "to_v"), rank, base="sd15")


@cache
def sd15_attn(rank: int) -> Layout:
    """All attention projections of Stable Diffusion 1.5: 128 modules, 199,296 parameters at rank 1."""
    return Layout.from_model(_sd15_unet(), ATTENTION, rank, base="sd15")


@cache
def sdxl_attn(rank: int) -> Layout:
    """All attention projections of Stable Diffusion XL: 560 modules, 1,451,520 parameters at rank 1."""
    return Layout.from_model(_sdxl_unet(), ATTENTION, rank, base="sdxl")


@cache
def sd15_kohya(rank: int) -> Layout:
    """What kohya's trainer adapts in Stable Diffusion 1.5: 192 modules, 32 of them convolutions, 423,936 parameters at rank 1."""
    return Layout.from_model(_sd15_unet(), TRANSFORMER, rank, base="sd15")


@cache
def sdxl_kohya(rank: int) -> Layout:
    """What kohya's trainer adapts in Stable Diffusion XL: 722 modules, 2,659,840 parameters at rank 1."""
    return Layout.from_model(_sdxl_unet(), TRANSFORMER, rank, base="sdxl")


@cache
def sd3(rank: int) -> Layout:
    """Stable Diffusion 3 medium's attention, image and text: 191 modules, 586,752 parameters at rank 1.

    They are 24 blocks of 8 but for one: the last block's text goes nowhere, so it has no output projection.
    """
    return Layout.from_model(_sd3_transformer(), JOINT_ATTENTION, rank, base="sd3")


@cache
def flux(rank: int) -> Layout:
    """FLUX.1-dev's image attention: 190 modules, 1,167,360 parameters at rank 1.

    NOTE: its 38 single blocks have to_q, to_k and to_v but no to_out.0: their attention and feed-forward share one output layer.
    """
    return Layout.from_model(_flux_transformer(), ATTENTION, rank, base="flux")


@cache
def flux_full(rank: int) -> Layout:
    """FLUX.1-dev with diffusers' default targets, feed-forward included: 342 modules, 2,801,664 parameters at rank 1."""
    return Layout.from_model(_flux_transformer(), JOINT_ATTENTION + FEED_FORWARD, rank, base="flux")


PRESETS: dict[str, Callable[[int], Layout]] = {
    "sd15-w2w": sd15_w2w,
    "sd15-attn": sd15_attn,
    "sd15-kohya": sd15_kohya,
    "sdxl-attn": sdxl_attn,
    "sdxl-kohya": sdxl_kohya,
    "sd3": sd3,
    "flux": flux,
    "flux-full": flux_full,
}
"""Name -> function of the rank; a world adds its own."""
