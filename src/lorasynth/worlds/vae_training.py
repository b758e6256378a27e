"""Training the picture decoder: latents of the fixed encoder in, pictures out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.training import step_generator
from lorasynth.worlds.vae import affine_encoder, encode_affine

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

DrawBatch = Callable[[int, torch.Generator], Float[Tensor, "B 3 H W"]]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """How the decoder is trained."""

    steps: int = 3_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    latent_noise: float = 0.05  # standard deviation, in scaled latents: generated latents are never exact
    edge_weight: float = 0.5
    seed: int = 0


def reconstruction_loss(
    decoded: Float[Tensor, "B 3 H W"], pictures: Float[Tensor, "B 3 H W"], edge_weight: float
) -> Float[Tensor, ""]:
    """Mean absolute error of the pixels, and of their differences to the right and below (which keeps edges sharp)."""
    error = decoded - pictures
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + edge_weight * edges


def train_decoder(
    vae: "AutoencoderKL", draw_batch: DrawBatch, config: DecoderConfig, *, report: Callable[[str], None] = print
) -> None:
    """Train ``vae.decoder`` in place; the encoder stays as `build_vae` wrote it.

    Args:
        vae: the picture VAE.
        draw_batch: (batch size, generator) -> pictures in [0, 1].
        config: settings.
        report: gets a line of progress now and then.
    """
    weight, bias = affine_encoder(vae)
    parameters = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True)
    average = [p.detach().clone() for p in parameters]
    for step in range(config.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        generator = step_generator(config.seed, step)
        pictures = draw_batch(config.batch_size, generator)
        latents = encode_affine(weight, bias, pictures)
        latents = latents + config.latent_noise * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
        loss = reconstruction_loss(decoded, pictures * 2 - 1, config.edge_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 100 == 0:
            report(f"decoder step {step} of {config.steps} loss {loss.item():.4f}")
    with torch.no_grad():
        for p, mean in zip(parameters, average, strict=True):
            p.copy_(mean)
