"""A drawn world's base: Stable Diffusion at small size."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lorasynth.base.sd import StableDiffusion
from lorasynth.worlds.vae import affine_encoder, encode_affine

TARGET_MODULES = ("attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
"""The linear layers of the base model that a person can be written into: what self-attention carries, and feed-forward. Adapting
queries and keys, cross-attention and time projections as well changes no picture (dev/LOG.md)."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DrawnBase(StableDiffusion):
    """`build_pipeline`'s, trained."""

    target_modules: ClassVar[tuple[str, ...]] = TARGET_MODULES

    @property
    def family(self) -> str:
        """The world's name: no LoRA of another world fits."""
        return self.name

    def encode(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Pictures in [0, 1] -> scaled latents. By the affine map a hundred times faster than by the network that computes it."""
        return encode_affine(*self._affine_encoder, pictures)

    @cached_property
    def _affine_encoder(self) -> tuple[Tensor, Tensor]:
        return affine_encoder(self.pipe.vae)
