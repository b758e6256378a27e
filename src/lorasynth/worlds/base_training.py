"""Training a world's base model: captions and pictures drawn as it goes, the v-prediction loss, an average of the weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorasynth.training import config_record, launched, step_generator, train
from lorasynth.worlds.base import BaseConfig, Batch, stratified_timesteps, token_ids, v_loss

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MICRO_BATCHES = 2


def train_base(
    pipe: "StableDiffusionPipeline", batch: Batch, config: BaseConfig, *, run_dir: Path | None = None
) -> None:
    """Train the UNet in place, and leave it with its averaged weights.

    The text encoder stays as it is, as Stable Diffusion's did. NOTE: trained along, it forgot for good the words whose pictures
    differ least (smiles): colours came first, and the states of all other words shrank to nothing.

    A step is `MICRO_BATCHES` independent micro-batches. One process does them in turn; under ``torchrun --nproc-per-node 2`` each
    process does one and gradients are averaged, with the same numbers drawn and so the same result up to rounding.

    Args:
        pipe: an untrained pipeline.
        batch: (count, generator) -> latents and captions.
        config: settings; ``batch_size`` is that of a micro-batch.
        run_dir: for checkpoints and metrics, written by the first process; the same folder again resumes.
    """
    unet, text_encoder, scheduler = pipe.unet, pipe.text_encoder, pipe.scheduler

    def loss_of(generator: torch.Generator) -> Tensor:
        total, mine = torch.zeros(()), range(processes.rank, MICRO_BATCHES, processes.count)
        for micro in mine:
            own = step_generator(generator.initial_seed(), micro)
            latents, captions = batch(config.batch_size, own)
            with torch.no_grad():
                text = text_encoder(token_ids(pipe, captions))[0]
            noise = torch.randn(latents.shape, generator=own)
            timesteps = stratified_timesteps(len(latents), scheduler.config.num_train_timesteps, own)
            with torch.autocast(latents.device.type, dtype=torch.bfloat16, enabled=config.bf16):
                loss = v_loss(unet, scheduler, latents, text, noise, timesteps)
            total = total + loss.mean() / len(mine)
        return total

    text_encoder.requires_grad_(False).eval()
    unet.requires_grad_(True)
    with launched() as processes:
        train(
            unet,
            loss_of,
            config.loop,
            run_dir=run_dir,
            config_record=config_record(config),
            label="base",
            processes=processes,
        )
    unet.requires_grad_(False)
