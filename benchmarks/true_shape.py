"""Stable Diffusion 1.5 at its true shape, with random weights and pictures of 64 pixels: what a CPU can check of a real base.

    python benchmarks/true_shape.py

Gradients of a bank of two against PEFT's adapters one at a time, for epsilon-prediction; seconds and peak memory of a step with
gradient checkpointing and without; what the gradient is worth with it.
"""

import argparse
import copy
import resource
import time

import torch
from _bare import BareBase, text
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model

from lorasynth.base import Schedule, denoising_loss
from lorasynth.lora.bank import attached
from lorasynth.lora.batched import checkpointed
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.lora.presets import ATTENTION

SIDE = 8  # of latents: 64 pixels
SCHEDULER = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
    steps_offset=1, prediction_type="epsilon",
)  # fmt: skip
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Latents, noise, timesteps and text states of two rows."""


def peft_gradient(unet: UNet2DConditionModel, layout: Layout, vector: torch.Tensor, given: Given) -> torch.Tensor:
    """By PEFT and diffusers alone: one LoRA on one row, the mean squared error of the noise."""
    x, noise, t, states = given
    inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=list(ATTENTION)), unet)
    layers = dict(unet.named_modules())
    for name, factors in layout.split(vector[None]).items():
        for which, factor in zip(("lora_A", "lora_B"), factors, strict=True):
            getattr(layers[name], which)["default"].weight.data = factor[0].clone()
    answer = unet(SCHEDULER.add_noise(x, noise, t), t, states).sample
    (answer - noise).square().mean().backward()
    return layout.join({
        m.name: tuple(getattr(layers[m.name], which)["default"].weight.grad[None] for which in ("lora_A", "lora_B"))
        for m in layout.modules
    })[0]  # fmt: skip


def bank_gradient(base: BareBase, layout: Layout, vectors: torch.Tensor, given: Given) -> torch.Tensor:
    """Of two LoRAs in one pass."""
    x, noise, t, states = given
    learned = vectors.clone().requires_grad_()
    with attached(base.denoiser, layout, learned):
        loss = denoising_loss(base, x, noise, base.schedule.row(t), text(states)).sum()
    loss.backward()
    return learned.grad


def memory() -> float:
    """The process's largest memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def sd15() -> None:
    """Compare, and print what a step takes."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).requires_grad_(False).eval()
    layout = Layout.from_model(unet, ATTENTION, 1, base="sd15")
    vectors = torch.stack([LoRA.random(layout, seed=seed, std=0.05).vector for seed in range(2)])
    x, noise = torch.randn(2, 2, 4, SIDE, SIDE)
    given = (x, noise, torch.tensor([250, 700]), torch.randn(2, 77, 768))
    base = BareBase(unet, Schedule.of(SCHEDULER))
    print(f"{sum(p.numel() for p in unet.parameters()):,} parameters, {len(layout.modules)} modules, {memory():.1f} GB")
    unet.enable_gradient_checkpointing(checkpointed)
    found = {}
    for name in ("checkpointed", "plain"):  # what takes less memory first
        start = time.process_time()
        found[name] = bank_gradient(base, layout, vectors, given)
        print(f"{name}: {time.process_time() - start:.1f} CPU seconds a step of two, {memory():.2f} GB", flush=True)
        unet.disable_gradient_checkpointing()
    largest = found["plain"].abs().max()
    print(f"checkpointing changes the gradient by {(found['plain'] - found['checkpointed']).abs().max() / largest:.1e}")
    for n, vector in enumerate(vectors):
        row = tuple(part[n : n + 1] for part in given)
        theirs = peft_gradient(copy.deepcopy(unet), layout, vector, row)
        print(f"LoRA {n}: PEFT's gradient is {(found['plain'][n] - theirs).abs().max() / largest:.1e} away", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sd15()
