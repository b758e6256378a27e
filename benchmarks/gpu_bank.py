"""Fine-tuning LoRAs of Stable Diffusion 1.5's true shape on a GPU: one AdapterBank against PEFT adapters one at a time.

    python benchmarks/gpu_bank.py 1 4 16 48
    python benchmarks/gpu_bank.py 1 4 8 --pictures 4

Random weights in bfloat16, weights2weights' layout at rank 1, latents of 64 x 64, one picture an adapter and step, or more,
AdamW. Both sides take turns in one run. Achieved TFLOP/s count the products that torch's counter sees, against the card's own
ceiling, a large bfloat16 product measured beside them.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from _bare import BareBase, text
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from lorasynth.base import denoising_loss
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.zoo.initialisation import random_init

TARGETS = ("to_q", "to_v")


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one call, the GPU's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ceiling() -> float:
    """TFLOP/s of a product of two 8192 x 8192 matrices of random bfloat16."""
    a, b = torch.randn(2, 8192, 8192, dtype=torch.bfloat16)
    times = [seconds(lambda: torch.mm(a, b)) for _ in range(13)]
    return 2 * 8192**3 / median(times[3:]) / 1e12


def unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet with random weights, frozen."""
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    return model.to(torch.bfloat16).requires_grad_(False).eval()


def training(model: UNet2DConditionModel, adapters: AdapterBank | None, pictures: int = 1) -> Callable[[], None]:
    """One step of the base's loss: of N adapters in a bank, or of the one adapter that PEFT has put into the model."""
    n = adapters.num_adapters if adapters is not None else 1
    size, rows = model.config.sample_size, n * pictures
    x, noise = torch.randn(2, rows, 4, size, size)
    states, base = torch.randn(rows, 77, model.config.cross_attention_dim), BareBase(model)
    given = (base, x, noise, base.schedule.row(torch.randint(1000, (rows,))), text(states))
    parameters = [p for p in (adapters or model).parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            if adapters is None:
                loss = denoising_loss(*given)
            else:
                with adapters.attached():
                    loss = denoising_loss(*given)
        optimizer.zero_grad()
        loss.view(n, pictures).mean(1).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    """Print a row for each number of adapters."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("adapters", type=int, nargs="*", default=[1, 4, 16, 48], help="adapters at once")
    arguments.add_argument("--pictures", type=int, default=1, help="of an adapter in each step")
    asked = arguments.parse_args()
    if not torch.cuda.is_available():
        print("skipped: expected a CUDA device, got none")
        return
    torch.set_default_device("cuda")
    top = ceiling()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; ceiling {top:.0f} TFLOP/s (bfloat16, 8192)")
    ours, theirs = unet(), unet()
    layout = Layout.from_model(ours, TARGETS, 1, base="sd15")
    inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=list(TARGETS)), theirs)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    alone = training(theirs, None, asked.pictures)
    with FlopCounterMode(display=False) as counter:
        training(ours, AdapterBank(ours, layout, 1, random_init(layout, 0)), asked.pictures)()
    flops = counter.get_total_flops()
    print(f"{flops / 1e12:.3f} TFLOP a LoRA and step of {asked.pictures}")
    print("N    LoRA-steps/s  TFLOP/s  of ceiling  PEFT one at a time, LoRA-steps/s  ratio  peak GB")
    for n in asked.adapters:
        torch.cuda.reset_peak_memory_stats()
        together = training(ours, AdapterBank(ours, layout, n, random_init(layout, 0)), asked.pictures)
        for step in (together, together, alone, alone):
            step()
        turns = [(seconds(together) / n, median(seconds(alone) for _ in range(3))) for _ in range(5)]
        bank, peft = (1 / median(side) for side in zip(*turns, strict=True))
        rate, peak = bank * flops / 1e12, torch.cuda.max_memory_allocated() / 1e9
        print(
            f"{n:<4d} {bank:12.2f}  {rate:7.1f}  {rate / top:10.2f}  {peft:31.2f}  {bank / peft:5.2f}  {peak:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
