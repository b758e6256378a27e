"""Layouts by name: what people adapt in the base models that everybody knows.

Each is read from the table of `bases`, which was made from the real architecture.
"""

from collections.abc import Callable, Sequence
from functools import cache

from lorasynth.lora import bases
from lorasynth.lora.layout import Layout, Module

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


def _layout(base: str, target_modules: Sequence[str], rank: int) -> Layout:
    """The layout that `Layout.from_model` gives the base's first model, read from its table."""
    model = bases.of(base)[0]
    modules = tuple(
        Module(name=name, in_features=i, out_features=o, rank=rank, kernel=kernel)
        for name, (i, o, kernel) in model.modules.items()
        if any(name == target or name.endswith("." + target) for target in target_modules)
    )
    return Layout(base=base, modules=modules)


@cache
def sd15_w2w(rank: int) -> Layout:
    """weights2weights' layout: to_q and to_v of both attentions; 64 modules, 99,648 parameters at rank 1 (arXiv 2406.09413)."""
    return _layout("sd15", ("to_q", "to_v"), rank)


@cache
def sd15_attn(rank: int) -> Layout:
    """All attention projections of Stable Diffusion 1.5: 128 modules, 199,296 parameters at rank 1."""
    return _layout("sd15", ATTENTION, rank)


@cache
def sdxl_attn(rank: int) -> Layout:
    """All attention projections of Stable Diffusion XL: 560 modules, 1,451,520 parameters at rank 1."""
    return _layout("sdxl", ATTENTION, rank)


@cache
def sd15_kohya(rank: int) -> Layout:
    """What kohya's trainer adapts in Stable Diffusion 1.5: 192 modules, 32 of them convolutions, 423,936 parameters at rank 1."""
    return _layout("sd15", TRANSFORMER, rank)


@cache
def sdxl_kohya(rank: int) -> Layout:
    """What kohya's trainer adapts in Stable Diffusion XL: 722 modules, 2,659,840 parameters at rank 1."""
    return _layout("sdxl", TRANSFORMER, rank)


@cache
def sd3(rank: int) -> Layout:
    """Stable Diffusion 3 medium's attention, image and text: 191 modules, 586,752 parameters at rank 1.

    They are 24 blocks of 8 but for one: the last block's text goes nowhere, so it has no output projection.
    """
    return _layout("sd3", JOINT_ATTENTION, rank)


@cache
def flux(rank: int) -> Layout:
    """FLUX.1-dev's image attention: 190 modules, 1,167,360 parameters at rank 1.

    NOTE: its 38 single blocks have to_q, to_k and to_v but no to_out.0: their attention and feed-forward share one output layer.
    """
    return _layout("flux", ATTENTION, rank)


@cache
def flux_full(rank: int) -> Layout:
    """FLUX.1-dev with diffusers' default targets, feed-forward included: 342 modules, 2,801,664 parameters at rank 1."""
    return _layout("flux", JOINT_ATTENTION + FEED_FORWARD, rank)


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
