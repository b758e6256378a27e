"""How many people to train at once: measured on this machine in a few steps.

More adapters in a batch share the cost of a step until caches overflow (or a GPU is full). Where that is, no table knows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.errors import UsageError
from lorasynth.lora.layout import Layout
from lorasynth.zoo.adapt import AdaptConfig, adapt
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.initialisation import random_init

_BUDGET = {"cpu": 256, "cuda": 4_096}  # samples in a step, at most, of what is measured for a zoo
_WORTHWHILE = 0.97  # of the seconds: what is gained by less is noise, and the smaller batch is taken


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured, and chosen by it."""

    places: int  # N, people trained at once
    seconds: dict[int, float]  # N -> wall seconds a LoRA and step


def calibrate(
    base: Base,
    layout: Layout,
    init: Float[Tensor, " P"],
    photos: Photos,
    config: AdaptConfig,
    *,
    sample_budget: int = 256,
    steps: int = 2,
) -> Calibration:
    """Time a few steps with 1, 2, 4, … adapters while N · batch_size keeps within a budget.

    A GPU whose memory is full ends the measurement: the most that fitted is as many as there may be.

    NOTE: floating-point sums depend on N. Two machines that calibrate for themselves make zoos that differ in
    the last digits. `ZooConfig.bank` is fixed for that reason.

    Args:
        base: frozen.
        layout: of the LoRAs.
        init: any LoRA.
        photos: of one person or more; people are repeated where N is larger.
        config: batch and optimizer.
        sample_budget: samples in a batch at most; what fits into memory is the caller's knowledge.
        steps: timed for each candidate, after one that is not.

    Raises:
        UsageError: the budget is smaller than one person's batch, or one does not fit into memory.
    """
    if sample_budget < config.batch_size:
        raise UsageError(
            f"expected a budget of at least one person's batch, {config.batch_size} samples, got {sample_budget}; raise it, or "
            "lower AdaptConfig.batch_size"
        )

    def measure(n: int) -> float:
        some = photos.subjects(torch.arange(n) % len(photos))
        adapt(base, layout, init, some, replace(config, steps=1))
        _wait()
        start = time.perf_counter()
        adapt(base, layout, init, some, replace(config, steps=steps))
        _wait()
        return (time.perf_counter() - start) / (n * steps)

    measured: dict[int, float] = {}
    most, best = sample_budget // config.batch_size, 1
    for n in (2**k for k in range(most.bit_length())):
        try:
            measured[n] = measure(n)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if n == 1:
                raise UsageError(
                    f"expected memory for one LoRA's batch of {config.batch_size}, got none left; give --gradient-checkpointing, "
                    "--precision bf16 or a smaller --resolution"
                ) from None
            break
        if measured[n] < _WORTHWHILE * measured[best]:
            best = n
        elif n >= 4 * best:  # two doublings brought nothing
            break
    return Calibration(places=best, seconds=measured)


def measured_bank(
    base: Base, layout: Layout, photos: Photos, config: ZooConfig, *, report: Callable[[str], None] = print
) -> int:
    """How many people at once take the fewest seconds each, on the default device. See `calibrate`."""
    found = calibrate(
        base, layout, random_init(layout, config.seed), photos, config.adapt,
        sample_budget=_BUDGET[torch.get_default_device().type],
    )  # fmt: skip
    tried = ", ".join(f"{n}: {1e3 * time_:.1f}" for n, time_ in found.seconds.items())
    report(f"people at once: {found.places} (milliseconds of a LoRA's step by people at once: {tried})")
    return found.places


def _wait() -> None:
    """Until the device has done what it was given."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
