"""The base model of a world: a real, tiny `StableDiffusionPipeline`, built and trained from nothing, offline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.training import LoopConfig
from lorasynth.worlds.text import build_text_encoder, build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Shape and training of a world's base model.

    The UNet's channels are multiples of 32 with groups of 32, as the group norms of other programs expect.
    """

    channels: tuple[int, ...] = (64, 96)
    num_heads: int = 2
    text_width: int = 96
    attention: tuple[bool, ...] | None = None  # of which levels; None: of all
    bf16: bool = False  # activations while training, where the processor multiplies it
    batch_size: int = 32  # of a micro-batch; a step is two of them
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=10_800, learning_rate=2e-3, warmup_steps=200, hold=0.4, ema_decay=0.999, checkpoint_every_s=300.0
        )
    )


def build_scheduler() -> "DDIMScheduler":
    """Stable Diffusion's noise schedule with zero terminal SNR and v-prediction (Lin et al., WACV 2024)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip


def build_unet(config: BaseConfig, latent_channels: int, size: int = 8) -> "UNet2DConditionModel":
    """A `UNet2DConditionModel` for latents of ``size`` a side, with random weights.

    Without attention at the first level, as in Stable Diffusion XL, a step costs a third less.
    """
    from diffusers import UNet2DConditionModel

    attention = config.attention or (True,) * len(config.channels)
    return UNet2DConditionModel(
        sample_size=size, in_channels=latent_channels, out_channels=latent_channels,
        block_out_channels=config.channels, layers_per_block=1, norm_num_groups=32,
        down_block_types=tuple("CrossAttnDownBlock2D" if own else "DownBlock2D" for own in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if own else "UpBlock2D" for own in reversed(attention)),
        cross_attention_dim=config.text_width, attention_head_dim=config.num_heads,
    )  # fmt: skip


def build_pipeline(words: Sequence[str], vae: "AutoencoderKL", config: BaseConfig) -> "StableDiffusionPipeline":
    """An untrained pipeline around a picture VAE, for a world whose captions use ``words``."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(config.loop.seed)
    tokenizer = build_tokenizer(words)
    latent_size = vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1)
    return StableDiffusionPipeline(
        vae=vae, tokenizer=tokenizer, text_encoder=build_text_encoder(tokenizer, config.text_width),
        unet=build_unet(config, vae.config.latent_channels, latent_size), scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


Batch = Callable[[int, torch.Generator], tuple[Float[Tensor, "B C h w"], list[str]]]
"""(batch size, generator) -> latents and captions of as many pictures of the world."""
