"""Fine-tuning LoRAs: one AdapterBank against a PEFT adapter at a time, same base, updates, photos and cached inputs, in turns.

    python benchmarks/zoo_training.py            # N · b = 64
    python benchmarks/zoo_training.py calibrate  # and what this machine's own measurement chooses
    python benchmarks/zoo_training.py compile    # only this: a bank's step through torch.compile against the step as it is

Bases: "t" and "s" have two and three levels, 8 x 8 and 16 x 16 latents, and adapt all of attention; "portraits" is the shipped
world's shape with the layers that its zoo adapts.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from _bare import BareBase, text
from _harness import compare
from peft import LoraConfig, inject_adapter_in_model

from lorasynth.base import Level, Photos, Prompts, Schedule, denoising_loss
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.worlds.base import BaseConfig, build_scheduler, build_unet
from lorasynth.worlds.drawn_base import TARGET_MODULES
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.calibration import calibrate
from lorasynth.zoo.initialisation import random_init

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Given = tuple[torch.Tensor, torch.Tensor, Level, Prompts]
"""Latents, noise, its levels and prompts."""


@dataclass(frozen=True)
class Base:
    """A shape of base model and what is adapted in it."""

    channels: tuple[int, ...]
    latent_channels: int
    size: int
    targets: tuple[str, ...]

    def build(self) -> "UNet2DConditionModel":
        """With random weights, frozen."""
        unet = build_unet(BaseConfig(channels=self.channels), self.latent_channels)
        return unet.requires_grad_(False).eval()


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
BASES = {
    "t": Base((32, 64), 4, 8, ATTENTION),
    "s": Base((32, 64, 64), 4, 16, ATTENTION),
    "portraits": Base(BaseConfig().channels, 16, 8, TARGET_MODULES),
}


def bank_step(
    unet: "UNet2DConditionModel", layout: Layout, n: int, given: Given, lora_A: str = "each"
) -> Callable[[], None]:
    """One step of n adapters in a bank, on n · b rows of (latents, noise, level, prompts)."""
    base = BareBase(unet)
    bank = AdapterBank(unet, layout, n, random_init(layout, 0), lora_A=lora_A)
    optimizer = torch.optim.Adam([p for p in bank.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        with bank.attached():
            loss = denoising_loss(base, *given).view(n, -1).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peft_step(unet: "UNet2DConditionModel", targets: Sequence[str], rank: int, given: Given) -> Callable[[], None]:
    """One step of a PEFT adapter, which is put into the model, on b rows of (latents, noise, level, prompts)."""
    base = BareBase(unet)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), unet)
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        loss = denoising_loss(base, *given).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inputs(base: Base, rows: int) -> Given:
    """Latents, noise, its levels and prompts of made-up samples."""
    x, noise = torch.randn(2, rows, base.latent_channels, base.size, base.size)
    states = torch.randn(rows, 40, BaseConfig().text_width)
    level = Schedule.of(build_scheduler()).row(torch.randint(0, 1000, (rows,)))
    return x, noise, level, text(states)


def chosen_here(base: Base, b: int) -> int:
    """N as `calibrate` finds it, printed with what it measured."""
    unet = base.build()
    layout = Layout.from_model(unet, base.targets, 4)
    x, _, _, prompts = inputs(base, b)
    config = AdaptConfig(batch_size=b, lora_A="each")
    photos = Photos(latents=x[None], prompts=prompts, caption=torch.arange(b)[None])
    found = calibrate(BareBase(unet), layout, random_init(layout, 0), photos, config)
    timings = ", ".join(f"N={n} on {threads}: {s * 1e3:.1f}" for (threads, n), s in found.seconds.items())
    print(f"calibrated: N={found.places}, threads {found.threads}; ms a LoRA and step {timings}", flush=True)
    return found.places


def compiled(base: Base, b: int, n: int) -> None:
    """Print what torch.compile costs and brings: seconds until the first step is done, ratio of steps, steps to break even."""
    eager, unet = base.build(), base.build()
    layout, given = Layout.from_model(eager, base.targets, 4), inputs(base, n * b)
    bank = AdapterBank(unet, layout, n, random_init(layout, 0))
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-4, fused=True)
    with bank.attached():  # what is compiled are the layers as hooked
        fast = BareBase(torch.compile(unet))

        def step() -> None:
            loss = denoising_loss(fast, *given).view(n, -1).mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        ratio, ours, theirs = compare(f"zoo_training_compiled_b{b}_n{n}", step, bank_step(eager, layout, n, given))
    gain = theirs - ours
    even = f"{first / gain:,.0f} steps" if gain > 0 else "never"
    print(f"compiled in {first:.1f} s; ratio {ratio:.2f}; breaks even after {even}", flush=True)


def main() -> None:
    """Print a ratio for each base and batch."""
    if "compile" in sys.argv:
        compiled(BASES["portraits"], 8, 16)
        return
    for name, base in BASES.items():
        for b in (1, 4, 8) if name == "portraits" else (1, 4):
            for n in {64 // b, *([chosen_here(base, b)] if "calibrate" in sys.argv else [])}:
                ours, theirs = base.build(), base.build()
                layout = Layout.from_model(ours, base.targets, 4)
                compare(
                    f"zoo_training_{name}_b{b}_n{n}",
                    bank_step(ours, layout, n, inputs(base, n * b)),
                    peft_step(theirs, base.targets, 4, inputs(base, b)),
                    per_ours=n,
                )


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit()
    main()
