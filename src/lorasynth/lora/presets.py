"""Layouts by name: which modules people adapt in the base models that everybody knows. `Layout.preset` makes them."""

from dataclasses import dataclass

from lorasynth.lora import bases
from lorasynth.lora.bases import Shape

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


@dataclass(frozen=True)
class Preset:
    """A base of `lorasynth.lora.bases`, and the ends of the names of the modules that are adapted in its first model."""

    base: str
    targets: tuple[str, ...]

    def shapes(self) -> dict[str, Shape]:
        """Names and shapes of the modules that are adapted."""
        modules = bases.of(self.base)[0].modules
        return {
            name: shape for name, shape in modules.items() if f".{name}".endswith(tuple(f".{t}" for t in self.targets))
        }


PRESETS = {
    # weights2weights (arXiv 2406.09413): to_q and to_v of both attentions; 64 modules, 99,648 parameters at rank 1.
    "sd15-w2w": Preset("sd15", ("to_q", "to_v")),
    # 128 modules, 199,296 parameters at rank 1.
    "sd15-attn": Preset("sd15", ATTENTION),
    # 192 modules, 32 of them convolutions, 423,936 parameters at rank 1.
    "sd15-kohya": Preset("sd15", TRANSFORMER),
    # 560 modules, 1,451,520 parameters at rank 1.
    "sdxl-attn": Preset("sdxl", ATTENTION),
    # 722 modules, 2,659,840 parameters at rank 1.
    "sdxl-kohya": Preset("sdxl", TRANSFORMER),
    # Image and text: 24 blocks of 8 but for one, whose text goes nowhere; 191 modules, 586,752 parameters at rank 1.
    "sd3": Preset("sd3", JOINT_ATTENTION),
    # 190 modules, 1,167,360 parameters at rank 1. The 38 single blocks have no to_out.0: attention and feed-forward share one.
    "flux": Preset("flux", ATTENTION),
    # 342 modules, 2,801,664 parameters at rank 1.
    "flux-full": Preset("flux", JOINT_ATTENTION + FEED_FORWARD),
}
