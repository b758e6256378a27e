"""Fine-tuning many LoRAs at once: DreamBooth's loss for N people in one AdapterBank.

A zoo has two qualities: how like its person a LoRA makes the base model draw (likeness), and how alike two trainings of one
person come out (repeatability). The second decides what can be learned from a zoo, and most settings below serve it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.base import Base, Photos, denoising_loss
from lorasynth.devices import half_precision
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.training import step_generator, stratified_uniform


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How one LoRA is trained, in whatever company."""

    steps: int = 45
    batch_size: int = 8  # photos of each person in a step
    learning_rate: float = 5e-2
    # NOTE: Adam's epsilon is a setting here, not a guard. Far above the usual 1e-8 it makes the update proportional to the
    # gradient where the gradient is small, so that noise is not blown up to full steps and two trainings agree.
    adam_epsilon: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.99
    average_from: float = 0.5  # the LoRA is the mean of the weights over the steps after this part of the training
    # NOTE: the LoRA's deviation from where it started is stored this many times as large. Few steps that trainings agree about
    # fall short of the person; the direction is right, and the size is made up for here.
    strength: float = 1.0
    lora_A: Literal["each", "shared", "frozen"] = "frozen"
    seed: int = 0


CLASS_SEED = 10_000_000
"""What is added to a training's seed for class photos: noise and levels of their own."""
FINE_TUNING = AdaptConfig(
    steps=200, learning_rate=1e-2, adam_epsilon=1e-8, beta2=0.999, average_from=0.8, lora_A="each"
)
"""A LoRA made the usual way, to convergence: plain Adam on lora_A and lora_B from a random start. Ours is compared with it."""


def adapt(
    base: Base,
    layout: Layout,
    init: Float[Tensor, " P"] | Float[Tensor, "N P"],
    photos: Photos,
    config: AdaptConfig,
    *,
    at_once: int | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Float[Tensor, "N P"]:
    """Train LoRAs in one bank, each on its own person.

    All people of a step share noise, its levels and photo numbers (common random numbers). What the noise does to the weights is
    then the same for everybody and drops out with the zoo's mean. Levels are stratified: one from each of as many equal
    parts of the schedule makes a far less noisy gradient (the low-discrepancy idea of Kingma et al., NeurIPS 2021, Appendix I.1).

    Args:
        base: frozen; its own loss is trained on, whatever its network predicts.
        layout: of the LoRAs.
        init: where they begin, all or each.
        photos: of N people.
        config: settings.
        at_once: people in one pass of the base, whose gradients add up to those of a step; None: all.
        on_step: called with (step, mean loss) after each step.

    Returns:
        The trained LoRAs: for each the average of its weights over the last part of the training.
    """
    n, everybody = len(photos), torch.arange(len(photos))
    bank = AdapterBank(base.denoiser, layout, n, init, lora_A=config.lora_A)
    parameters = [p for p in bank.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        parameters, lr=0.0, betas=(config.beta1, config.beta2), eps=config.adam_epsilon, fused=True
    )
    begun = [p.detach().clone() for p in parameters]
    average, averaged = [p.clone() for p in begun], 0
    begin = min(config.average_from * config.steps, config.steps - 1)  # the last step at least
    passes = [slice(i, i + (at_once or n)) for i in range(0, n, at_once or n)]
    with half_precision():
        for step in range(config.steps):
            # 1. The learning rate of this step.
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step / config.steps)
            # 2. The base's loss of everybody through their own LoRA, with common random numbers.
            # A sum over adapters of each one's mean: no adapter feels how many others there are.
            optimizer.zero_grad()
            total = torch.zeros(())
            for rows in passes:
                with bank.attached(rows):
                    loss = subject_losses(base, photos, everybody[rows], config, step).sum()
                    loss.backward()
                total += loss.detach()
            # 3. One step of all LoRAs at once.
            optimizer.step()
            # 4. The mean of the weights over the last steps.
            if step >= begin:
                averaged += 1
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 / averaged)
            if on_step is not None:
                on_step(step, float(total) / n)
    with torch.no_grad():
        for p, start, mean in zip(parameters, begun, average, strict=True):
            p.copy_(start.lerp(mean, config.strength))
    return bank.vectors()


def train_people(
    base: Base,
    layout: Layout,
    init: Float[Tensor, " P"] | Float[Tensor, "N P"],
    photos: Photos,
    config: AdaptConfig,
    *,
    bank_size: int = 16,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "N P"]:
    """Fine-tuned LoRAs, ``bank_size`` at once, from a shared initialisation or from one each.

    Args:
        base: frozen.
        layout: of the LoRAs.
        init: where they begin.
        photos: of N subjects.
        config: how they are trained.
        bank_size: subjects trained at once.
        on_step: called after each step of a bank.
    """
    trained, starts = [], init.expand(len(photos), -1)
    step = (lambda _, __: on_step()) if on_step else None
    for rows in torch.arange(len(photos)).split(bank_size):
        trained.append(adapt(base, layout, starts[rows], photos.subjects(rows), config, on_step=step))
    return torch.cat(trained)


def subject_losses(
    base: Base, photos: Photos, people: Int[Tensor, " n"], config: AdaptConfig, step: int
) -> Float[Tensor, " n"]:
    """Each subject's mean loss on what a step draws; with class photos DreamBooth's (Ruiz et al., CVPR 2023, Eq. 2).

    Args:
        base: with a LoRA for each of the subjects attached to it.
        photos: of all subjects.
        people: which of them.
        config: seed and batch.
        step: of the training.
    """
    n, (photo, noise, part) = len(people), draw_samples(photos, config, step)
    x, prompts, mask = photos.batch(people[:, None], photo.expand(n, -1))
    losses = denoising_loss(base, x, noise.repeat(n, 1, 1, 1), base.schedule.level(part.repeat(n)), prompts, mask)
    losses = losses.view(n, -1).mean(1)
    if (others := photos.class_photos) is None:
        return losses
    config = replace(config, seed=config.seed + CLASS_SEED)
    return losses + others.loss_weight * subject_losses(base, others, torch.zeros_like(people), config, step)


def draw_samples(
    photos: Photos, config: AdaptConfig, step: int
) -> tuple[Int[Tensor, " B"], Float[Tensor, "B C h w"], Float[Tensor, " B"]]:
    """Photo numbers, noise and places in the noise schedule of one step: the same for everybody."""
    num_photos, b = photos.count, config.batch_size
    generator = step_generator(config.seed, step)
    photo = torch.randperm(num_photos, generator=generator).repeat(-(-b // num_photos))[:b]
    noise = torch.randn(b, *photos.latents.shape[2:], generator=generator)
    return photo, noise, stratified_uniform(b, generator)


def _schedule(progress: float) -> float:
    """Learning rate factor: full for half of the training, then linearly down to a tenth."""
    return 1.0 if progress < 0.5 else 1.0 - 0.9 * (progress - 0.5) / 0.5
