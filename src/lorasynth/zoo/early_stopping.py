"""Fine-tuning many people in few slots of a batch: who is done leaves, and the next person begins there and then.

Nobody feels the others: each LoRA is, but for rounding, what training this person alone to the same step gives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.base import Base, Photos, denoising_loss
from lorasynth.devices import half_precision
from lorasynth.errors import UsageError
from lorasynth.lora.bank import AdapterBank, attached
from lorasynth.lora.layout import Layout
from lorasynth.zoo.adapt import AdaptConfig, draw_samples, subject_losses
from lorasynth.zoo.optimizer import BankAdamW, clip_each

Score = Callable[[list[int], Float[Tensor, "n P"]], Float[Tensor, " n"]]
"""(people, their LoRAs so far) -> how well each matches the person's held-out photos; more is better."""


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a LoRA is done before `AdaptConfig.steps`: at a look that finds the target reached, or no gain since the last look."""

    every: int = 5  # steps between looks
    target: float | None = None  # of the score
    min_gain: float = 0.0  # of the score, from look to look


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What `finetune_with_early_stopping` gives."""

    vectors: Float[Tensor, "M P"]
    steps: Int[Tensor, " M"]  # that each LoRA took
    rounds: int  # steps of the whole batch


@dataclass
class _Slot:
    """One slot of the batch."""

    person: int
    step: int = 0
    score: float = -float("inf")


def finetune_with_early_stopping(
    base: Base,
    layout: Layout,
    starts: Float[Tensor, "M P"],
    photos: Photos,
    config: AdaptConfig,
    stopping: Stopping,
    score: Score,
    *,
    slots: int,
    learning_rates: Float[Tensor, " M"] | None = None,
    max_grad_norm: float = float("inf"),
) -> Trained:
    """Train M people's LoRAs, ``slots`` at a time, each until it is done.

    As nobody knows when that is, the learning rate stays constant, and the LoRA is the mean of the weights so far with weights
    that grow along the way (polynomial-decay averaging, Shamir & Zhang, ICML 2013, with eta = 3).

    Args:
        base: frozen.
        layout: of the LoRAs.
        starts: where each begins; with a frozen lora_A, the same one in all.
        photos: of M people.
        config: steps at most, batch and optimizer; schedule and strength are not used.
        stopping: when a LoRA is done.
        score: what it is done by.
        slots: people trained at once.
        learning_rates: one each, instead of the configuration's.
        max_grad_norm: each LoRA's gradient is cut to that.

    Raises:
        UsageError: no slots, no people, or a lora_A to be trained for all at once, which ties them together.
    """
    if slots < 1 or not len(starts) or config.lora_A == "shared":
        raise UsageError(
            f"expected slots and people, and lora_A 'each' or 'frozen', got {slots}, {len(starts)}, {config.lora_A!r}"
        )
    rates = torch.full((len(starts),), config.learning_rate) if learning_rates is None else learning_rates
    vectors, steps = starts.clone(), torch.zeros(len(starts), dtype=torch.long)
    waiting = list(range(len(starts)))[::-1]
    taken = [_Slot(waiting.pop()) for _ in range(min(slots, len(starts)))]
    bank = AdapterBank(base.denoiser, layout, len(taken), starts[[p.person for p in taken]], lora_A=config.lora_A)
    optimizer = BankAdamW(trained(bank), betas=(config.beta1, config.beta2), eps=config.adam_epsilon)
    rounds = 0
    with half_precision():
        while taken:
            people = [p.person for p in taken]
            with bank.attached():
                losses = subject_losses(base, photos, torch.tensor(people), config, [p.step for p in taken])
            optimizer.zero_grad()
            losses.sum().backward()
            if max_grad_norm < float("inf"):
                clip_each(optimizer.parameters, max_grad_norm)
            optimizer.step(rates[people])
            rounds += 1
            for slot in taken:
                slot.step += 1
            now = torch.tensor([[4 / (slot.step + 3)] for slot in taken])
            vectors[people] = vectors[people].lerp(bank.vectors(), now)
            done = _done(taken, vectors, config.steps, stopping, score)
            if not done:
                continue
            for i in done:
                steps[taken[i].person] = taken[i].step
            # Who waits begins where somebody left; with nobody waiting the batch becomes smaller.
            refilled = done[: len(waiting)]
            current = bank.vectors()
            for i in refilled:
                taken[i] = _Slot(waiting.pop())
                current[i] = starts[taken[i].person]
                optimizer.restart(i)
            stay = [i for i in range(len(taken)) if i in refilled or i not in done]
            taken = [taken[i] for i in stay]
            if len(stay) == len(current):
                bank.load_vectors(current)
            elif stay:
                bank = AdapterBank(base.denoiser, layout, len(stay), current[stay], lora_A=config.lora_A)
                optimizer = optimizer.moved(trained(bank), stay)
    return Trained(vectors=vectors, steps=steps, rounds=rounds)


def trained(bank: AdapterBank) -> list[torch.nn.Parameter]:
    """What a bank trains."""
    return [p for p in bank.parameters() if p.requires_grad]


def _done(
    taken: list[_Slot], vectors: Float[Tensor, "M P"], most_steps: int, stopping: Stopping, score: Score
) -> list[int]:
    """The slots whose LoRAs are done."""
    done = [i for i, p in enumerate(taken) if p.step >= most_steps]
    looked_at = [i for i, p in enumerate(taken) if p.step % stopping.every == 0 and i not in done]
    if looked_at:
        people = [taken[i].person for i in looked_at]
        with torch.no_grad():
            scores = score(people, vectors[people]).tolist()
        for i, value in zip(looked_at, scores, strict=True):
            reached = stopping.target is not None and value >= stopping.target
            if reached or value < taken[i].score + stopping.min_gain:
                done.append(i)
            taken[i].score = value
    return sorted(done)


def held_out_loss(base: Base, layout: Layout, photos: Photos, *, seed: int = 0) -> Score:
    """A score that any base has: minus its loss on held-out photos, always with the same noise at the same levels."""
    config = AdaptConfig(batch_size=photos.count, seed=seed)
    photo, noise, part = draw_samples(photos, config, 0)

    @torch.no_grad()
    def score(people: list[int], vectors: Float[Tensor, "n P"]) -> Float[Tensor, " n"]:
        n = len(people)
        x, prompts, mask = photos.batch(torch.tensor(people)[:, None], photo.expand(n, -1))
        with attached(base.denoiser, layout, vectors):
            losses = denoising_loss(
                base, x, noise.repeat(n, 1, 1, 1), base.schedule.level(part.repeat(n)), prompts, mask
            )
        return -losses.view(n, -1).mean(1)

    return score
