"""A diffusers pipeline as a base: what is the same for every family. A family is a subclass in a file of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base.base import Prompts
from lorasynth.base.schedule import Level, Schedule
from lorasynth.errors import ModelError, UsageError
from lorasynth.lora.batched import checkpointed
from lorasynth.lora.layout import Layout
from lorasynth.lora.presets import ATTENTION


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelineBase(ABC):
    """A frozen pipeline: a denoiser, a VAE, text encoders and a scheduler. It implements `Base`."""

    pipe: Any
    name: str
    picture_size: int

    target_modules: ClassVar[tuple[str, ...]] = ATTENTION
    captions_at_once: ClassVar[int] = 256  # that text encoders are given
    picture_multiple: ClassVar[int] = 8  # pixels that a side is a multiple of, at the least

    def __repr__(self) -> str:
        """In a line, without its networks."""
        return f"{type(self).__name__}({self.name!r}, {self.picture_size} pixels)"

    def __post_init__(self) -> None:
        """Freeze every network, and refuse pictures that the denoiser cannot take."""
        multiple = max(self.picture_multiple, self.pipe.vae_scale_factor)
        if self.picture_size < multiple or self.picture_size % multiple:
            raise UsageError(
                f"expected a resolution in multiples of {multiple} pixels for {self.name}, got {self.picture_size}"
            )
        if (positions := self._positions()) is not None:
            config: Any = self.denoiser.config
            largest = positions * config.patch_size * self.pipe.vae_scale_factor
            if self.picture_size > largest:
                raise UsageError(f"expected a resolution up to {largest} for {self.name}, got {self.picture_size}")
        if self._channels() != self.pipe.vae.config.latent_channels:
            raise ModelError(
                f"{self.name}: expected a denoiser of the VAE's {self.pipe.vae.config.latent_channels} channels, got one of "
                f"{self._channels()}, as inpainting and editing models have; give a text-to-image model"
            )
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    @property
    @abstractmethod
    def family(self) -> str:
        """`Layout.base`."""

    @property
    def denoiser(self) -> nn.Module:
        """The network that LoRAs are attached to: the pipeline's UNet or its transformer."""
        network: nn.Module = self.pipe.unet if hasattr(self.pipe, "unet") else self.pipe.transformer
        return network

    @property
    def embeds_guidance(self) -> bool:
        """Whether the denoiser is told the guidance scale."""
        return False

    @classmethod
    def usual_size(cls, pipe: Any) -> int:
        """Pixels a side of the pictures that a pipeline was trained on."""
        size: int = pipe.default_sample_size * pipe.vae_scale_factor
        return size

    @cached_property
    def schedule(self) -> Schedule:
        """The pipeline's noise.

        Raises:
            ModelError: its scheduler is of a kind that is not known.
        """
        return Schedule.of(self.pipe.scheduler, self._set_timesteps)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture's latent."""
        size = self.picture_size // self.pipe.vae_scale_factor
        return self.pipe.vae.config.latent_channels, size, size

    def layout(self, rank: int, target_modules: Sequence[str] | None = None) -> Layout:
        """The layout of its LoRAs. By default of `target_modules`.

        Raises:
            LayoutError: no layer, or one that no LoRA fits, is of such a name.
        """
        return Layout.from_model(self.denoiser, target_modules or self.target_modules, rank, base=self.family)

    def enable_gradient_checkpointing(self) -> None:
        """Keep few activations of the denoiser, and compute the others again for gradients: less memory, about a third slower."""
        denoiser: Any = self.denoiser
        denoiser.enable_gradient_checkpointing(checkpointed)

    @torch.no_grad()
    def encode(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Pictures in [0, 1] -> latents (the mode of the VAE's posterior), scaled and shifted as the denoiser sees them."""
        shift, scale = self._shift_and_scale
        modes = [self.pipe.vae.encode(part * 2 - 1).latent_dist.mode() for part in pictures.split(self._at_once)]
        return (torch.cat(modes) - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """The inverse of `encode`, in [0, 1]."""
        shift, scale = self._shift_and_scale
        parts = [self.pipe.vae.decode(part / scale + shift).sample for part in latents.split(self._at_once)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def prompts(self, captions: Sequence[str]) -> Prompts:
        """Captions, encoded. What is longer than the text encoders take is cut, which diffusers reports."""
        n = self.captions_at_once
        return Prompts.cat([self._encode_captions(list(captions[i : i + n])) for i in range(0, len(captions), n)])

    @torch.no_grad()
    def unconditional(self, count: int) -> Prompts:
        """The empty caption, ``count`` times."""
        return self.prompts([""])[[0] * count]

    def predict(self, x_t: Float[Tensor, "B C h w"], level: Level, prompts: Prompts) -> Float[Tensor, "B C h w"]:
        """The denoiser's own answer, in the precision of its weights. In and out in that of ``x_t``."""
        dtype = next(self.denoiser.parameters()).dtype
        if dtype == x_t.dtype:
            return self._answer(x_t, level.time, prompts.tensors)
        context: AbstractContextManager = (
            torch.autocast(x_t.device.type, dtype) if dtype.itemsize == 2 else nullcontext()
        )
        with context:
            return self._answer(x_t.to(dtype), level.time, prompts.map(lambda p: p.to(dtype)).tensors).to(x_t.dtype)

    @abstractmethod
    def _encode_captions(self, captions: list[str]) -> Prompts: ...

    @abstractmethod
    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor: ...

    def _channels(self) -> int:
        """Channels that the denoiser takes."""
        config: Any = self.denoiser.config
        return int(config.in_channels)

    def _positions(self) -> int | None:
        """Patches a side that the denoiser has positions for. None for any number."""
        return None

    def _set_timesteps(self, scheduler: Any, steps: int) -> None:
        """A flow matching scheduler's sigmas, as the pipeline sets them."""
        scheduler.set_timesteps(steps)

    @property
    def _at_once(self) -> int:
        """Pictures that the VAE is given: about as many pixels as 64 of 64 x 64. On a GPU 64 times as many."""
        pixels = 2**18 if torch.get_default_device().type == "cpu" else 2**24
        return max(1, pixels // self.picture_size**2)

    @cached_property
    def _shift_and_scale(self) -> tuple[float | Tensor, float | Tensor]:
        """Latents are (VAE's - shift) * scale: of all channels alike, or (Playground's VAE) of each."""
        config = self.pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
        shift, deviation = (torch.tensor(x).view(1, -1, 1, 1) for x in (mean, std))
        return shift, config.scaling_factor / deviation


def dynamic_shift(scheduler: Any, tokens: int, max_shift: float) -> float | None:
    """The ``mu`` by which a flow matching scheduler moves its sigmas for a picture of so many tokens. None for none.

    As FLUX's and Stable Diffusion 3's pipelines compute it (``calculate_shift``): linear between two sizes.
    """
    if not scheduler.config.use_dynamic_shifting:
        return None
    of = scheduler.config.get
    low, high = of("base_image_seq_len", 256), of("max_image_seq_len", 4096)
    least, most = of("base_shift", 0.5), of("max_shift", max_shift)
    return least + (most - least) * (tokens - low) / (high - low)
