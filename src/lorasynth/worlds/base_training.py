"""Training a world's base model: captions and pictures drawn as it goes, the base's own loss, an average of the weights."""

from pathlib import Path

import torch
from torch import Tensor

from lorasynth.base import PipelineBase, denoising_loss
from lorasynth.devices import half_precision
from lorasynth.errors import UsageError
from lorasynth.training import Processes, config_record, launched, step_generator, stratified_uniform, train
from lorasynth.worlds.base import BaseConfig, Batch

MICRO_BATCHES = 2


def train_base(base: PipelineBase, batch: Batch, config: BaseConfig, *, run_dir: Path | None = None) -> Processes:
    """Train the denoiser in place, and leave it with its averaged weights.

    The text encoder stays as it is, as Stable Diffusion's did. NOTE: trained along, it forgot for good the words whose pictures
    differ least (smiles): colours came first, and the states of all other words shrank to nothing.

    A step is `MICRO_BATCHES` independent micro-batches. One process does them in turn. Under ``torchrun --nproc-per-node 2`` each
    process does one and gradients are averaged, with the same numbers drawn and so the same result up to rounding.

    Args:
        base: untrained.
        batch: (count, generator) -> latents and captions.
        config: settings; ``batch_size`` is that of a micro-batch.
        run_dir: for checkpoints and metrics, written by the first process; the same folder again resumes.

    Returns:
        The processes that trained it, the main one of which has to save it.

    Raises:
        UsageError: the launcher's environment holds no numbers, or a step has no equal share for each process.
    """

    def loss_of(generator: torch.Generator) -> Tensor:
        total, mine = torch.zeros(()), range(processes.rank, MICRO_BATCHES, processes.count)
        for micro in mine:
            own = step_generator(generator.initial_seed(), micro)
            latents, captions = batch(config.batch_size, own)
            noise = torch.randn(latents.shape, generator=own)
            level, prompts = base.schedule.level(stratified_uniform(len(latents), own)), base.prompts(captions)
            with half_precision(config.bf16, cpu=True):
                loss = denoising_loss(base, latents, noise, level, prompts)
            total = total + loss.mean() / len(mine)
        return total

    base.denoiser.requires_grad_(True)
    with launched() as processes:
        if MICRO_BATCHES % processes.count:
            raise UsageError(
                f"expected 1 or {MICRO_BATCHES} processes, got {processes.count}; start another number of them"
            )
        train(
            base.denoiser,
            loss_of,
            config.loop,
            run_dir=run_dir,
            config_record=config_record(config),
            label="base",
            processes=processes,
        )
    base.denoiser.requires_grad_(False)
    return processes
