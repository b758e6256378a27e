"""Training the picture decoder: latents of the fixed encoder in, pictures out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.training import LoopConfig, config_record, train
from lorasynth.worlds.vae import affine_encoder, encode_affine

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

DrawBatch = Callable[[int, torch.Generator], Float[Tensor, "B 3 H W"]]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """How the decoder is trained."""

    batch_size: int = 16
    latent_noise: float = 0.12  # standard deviation, in scaled latents: generated latents are never exact
    edge_weight: float = 0.5
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=3_000, learning_rate=2e-3, warmup_steps=100, weight_decay=0.0)
    )


def reconstruction_loss(
    decoded: Float[Tensor, "B 3 H W"], pictures: Float[Tensor, "B 3 H W"], edge_weight: float
) -> Float[Tensor, ""]:
    """Mean absolute error of the pixels, and of their differences to the right and below (which keeps edges sharp)."""
    error = decoded - pictures
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + edge_weight * edges


def train_decoder(
    vae: "AutoencoderKL", draw_batch: DrawBatch, config: DecoderConfig, *, run_dir: Path | None = None
) -> None:
    """Train ``vae.decoder`` in place. The encoder stays as `build_vae` wrote it.

    Args:
        vae: the picture VAE.
        draw_batch: (batch size, generator) -> pictures in [0, 1].
        config: settings.
        run_dir: for checkpoints and metrics; the same folder again resumes.
    """
    weight, bias = affine_encoder(vae)

    def loss_of(generator: torch.Generator) -> Tensor:
        pictures = draw_batch(config.batch_size, generator)
        latents = encode_affine(weight, bias, pictures)
        latents = latents + config.latent_noise * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
        return reconstruction_loss(decoded, pictures * 2 - 1, config.edge_weight)

    train(vae.decoder, loss_of, config.loop, run_dir=run_dir, config_record=config_record(config), label="decoder")
