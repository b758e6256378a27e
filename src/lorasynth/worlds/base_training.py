"""Training a world's base model: captions and pictures drawn as it goes, the v-prediction loss, an average of the weights."""

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.training import step_generator
from lorasynth.worlds.base import BaseConfig, Batch, stratified_timesteps, token_ids, v_loss

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MICRO_BATCHES = 2


def train_base(
    pipe: "StableDiffusionPipeline",
    batch: Batch,
    config: BaseConfig,
    *,
    checkpoint: Callable[[int, dict[str, Tensor]], None] | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train UNet and text encoder in place, and leave them with their averaged weights.

    A step is `MICRO_BATCHES` independent micro-batches. One process does them in turn; under ``torchrun --nproc-per-node 2`` each
    process does one and gradients are summed, with the same numbers drawn and so the same result up to rounding.

    Args:
        pipe: an untrained pipeline.
        batch: (count, generator) -> latents and captions.
        config: settings; ``batch_size`` is that of a micro-batch.
        checkpoint: called every 500 steps with (step, averaged weights).
        report: gets a line of progress now and then.
    """
    import torch.distributed as dist

    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    unet, text_encoder, scheduler = pipe.unet, pipe.text_encoder, pipe.scheduler
    named = {f"unet.{n}": p for n, p in unet.named_parameters()}
    named |= {f"text_encoder.{n}": p for n, p in text_encoder.named_parameters()}
    parameters = [p.requires_grad_(True) for p in named.values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True)
    average = {n: p.detach().clone() for n, p in named.items()}
    total = 0.0
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        optimizer.zero_grad()
        for micro in range(MICRO_BATCHES):
            if micro % world_size != rank:
                continue
            generator = step_generator(config.seed, step * MICRO_BATCHES + micro)
            latents, captions = batch(config.batch_size, generator)
            text = text_encoder(token_ids(pipe, captions))[0]
            noise = torch.randn(latents.shape, generator=generator)
            timesteps = stratified_timesteps(len(latents), scheduler.config.num_train_timesteps, generator)
            loss = v_loss(unet, scheduler, latents, text, noise, timesteps).mean() / MICRO_BATCHES
            loss.backward()
            total += loss.item()
        if world_size > 1:
            flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            dist.all_reduce(flat)
            for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad = part.view_as(p)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters], 1 - decay)
        if step % 100 == 99:
            report(f"base step {step + 1} of {config.steps} loss {total * world_size / 100:.4f}")
            total = 0.0
        if checkpoint is not None and rank == 0 and step % 500 == 499:
            checkpoint(step + 1, average)
    with torch.no_grad():
        for n, p in named.items():
            p.copy_(average[n])
    for part in (unet, text_encoder):
        part.requires_grad_(False).eval()


def _schedule(step: int, steps: int) -> float:
    """Warm-up, full learning rate for 40 % of the training, then a cosine to zero."""
    warm = min(1.0, step / 200)
    after = step / steps - 0.4
    return warm if after <= 0 else 0.5 * (1 + math.cos(math.pi * after / 0.6))
