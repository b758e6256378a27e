"""The formulas of docs/results/scale.md against measurements at 1, 4 and 16 times a size.

    python benchmarks/scale.py storage    # bytes of a zoo on disk, seconds to write and to open it
    python benchmarks/scale.py memory     # peak memory of fitting canonical form and VAE
    python benchmarks/scale.py build      # seconds of a real build of the portraits world, few steps a LoRA
    python benchmarks/scale.py flops      # of a LoRA and step at the true shapes of SD1.5 and SDXL, on the meta device
    python benchmarks/scale.py plan       # what the formulas say of a zoo of SDXL

One core. What is stored are random numbers of the true layout: bytes, seconds and memory do not depend on them.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from lorasynth.lora.layout import Layout
from lorasynth.zoo.store import Zoo

TIMES = (1, 4, 16)
PHOTOS, EMBEDDING = 4, 512  # J and D of the formulas
LINE = 450  # bytes of a manifest's line, about


def bytes_of(items: int, parameters: int, photos: int, embedding: int) -> float:
    """Of a zoo: float16 numbers and embeddings, and a line each."""
    return items * (2 * parameters + 2 * photos * embedding + LINE)


def plant(folder: Path, layout: Layout, items: int, shard: int = 16) -> Zoo:
    """A zoo of random numbers around a common mean, one in eight for validation."""
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(layout.num_parameters, generator=g) / 100
    zoo = Zoo.create(folder, layout, {}, mean)
    for start in range(0, items, shard):
        persons = list(range(start, min(start + shard, items)))
        vectors = mean + torch.randn(len(persons), layout.num_parameters, generator=g) / 300
        faces = torch.nn.functional.normalize(torch.randn(len(persons), PHOTOS, EMBEDDING, generator=g), dim=2)
        splits = ["validation" if person % 8 == 0 else "train" for person in persons]
        zoo.append(f"shard-{start // shard:05d}", persons, splits, vectors, faces, "made", "CC0")
    return zoo


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "zoo"


def row(times: int, **values: float | str) -> None:
    print(
        f"{times:3d}x  " + "  ".join(f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in values.items()),
        flush=True,
    )


def storage() -> None:
    """Weights2weights' layout at rank 1: 40, 160, 640 LoRAs."""
    layout = Layout.preset("sd15-w2w", rank=1)
    for times in TIMES:
        with place() as folder:
            begun = time.perf_counter()
            plant(folder, layout, 40 * times)
            written = time.perf_counter()
            Zoo.open(folder)
            opened = time.perf_counter()
            measured = sum(path.stat().st_size for path in folder.glob("*.*") if path.is_file())
        said = bytes_of(40 * times, layout.num_parameters, PHOTOS, EMBEDDING)
        row(times, items=40.0 * times, said_MB=said / 1e6, measured_MB=measured / 1e6, ratio=measured / said,
            write_s=written - begun, open_s=opened - written)  # fmt: skip


FIT = """
import re, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from lorasynth.pipeline.fitting import fit_vae_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.recipes import get_recipe
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
recipe = get_recipe("sd15_faces_small")
recipe = replace(recipe, vae=replace(recipe.vae, num_components=16, latent_dim=8, loop=replace(recipe.vae.loop, steps=4)))
before = peak()
fit_vae_stage(Workspace(recipe=recipe, folder=out, zoo_folder=folder))
print(peak() - before)
"""


def memory() -> None:
    """The VAE stage of sd15_faces_small on 80, 320, 1,280 LoRAs of weights2weights' layout, each in a process of its own."""
    layout = Layout.preset("sd15-w2w", rank=1)
    first: tuple[int, int] | None = None
    for times in TIMES:
        with place() as folder:
            plant(folder, layout, 80 * times)
            begun = time.perf_counter()
            command = [sys.executable, "-c", FIT, str(folder), str(folder.parent / "fit")]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            took = time.perf_counter() - begun
        zoo = 4 * 80 * times * layout.num_parameters
        measured = int(re.findall(r"^(\d+)$", said, re.MULTILINE)[-1])
        first = first or (zoo, measured)
        grown = "-" if times == 1 else f"{(measured - first[1]) / (zoo - first[0]):.2f}"
        row(
            times,
            items=80.0 * times,
            zoo_MB=zoo / 1e6,
            measured_MB=measured / 1e6,
            copies_more_than_1x=grown,
            wall_s=took,
        )


def build() -> None:
    """A build of 4, 16, 64 people of the portraits world, 6 steps a LoRA, a bank of 4."""
    from lorasynth.recipes import get_recipe
    from lorasynth.zoo.build import build_zoo

    config = replace(get_recipe("portraits_tiny").zoo, bank=4, validation_people=2, pilot_people=4)
    seconds = {}
    for times in TIMES:
        with place() as folder:
            # The initialisation first, which costs the same for any size.
            build_zoo(replace(config, people=2), str(folder), report=None)
            begun = time.perf_counter()
            build_zoo(replace(config, people=2 + 4 * times), str(folder), report=None)
            seconds[times] = time.perf_counter() - begun
        said = seconds[1] * times
        row(times, people=4.0 * times, said_s=said, measured_s=seconds[times], ratio=seconds[times] / said)


def tflop(base: str) -> float:
    """Of a LoRA and step: forward and backward through the frozen base, one picture, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    from lorasynth.lora import base_models

    sdxl = base == "sdxl"
    unet = (base_models.sdxl_unet() if sdxl else base_models.sd15_unet()).requires_grad_(False)
    side, width = (128, 2048) if sdxl else (64, 768)
    with torch.device("meta"):
        x, text, t = torch.zeros(1, 4, side, side), torch.zeros(1, 77, width, requires_grad=True), torch.zeros(1)
        more = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)} if sdxl else {}
        with FlopCounterMode(display=False) as counter:
            out = unet(x.requires_grad_(), t, text, added_cond_kwargs=more).sample
            out.sum().backward()
    return counter.get_total_flops() / 1e12


def flops() -> None:
    """SD1.5 against what a GPU's run of benchmarks/gpu_bank.py counted, 1.774; SDXL, which was not run."""
    for base in ("sd15", "sdxl"):
        print(f"{base}: {tflop(base):.3f} TFLOP a LoRA and step of one picture")


def plan() -> None:
    """A zoo of a million LoRAs of SDXL, all attention projections."""
    million, steps, sustained = 1_000_000, 400, 190.0
    each = tflop("sdxl")
    seconds = million * steps * each / sustained
    for rank in (1, 4):
        P = Layout.preset("sdxl-attn", rank=rank).num_parameters
        said = {
            "rank": rank, "parameters": P, "TB": bytes_of(million, P, PHOTOS, EMBEDDING) / 1e12,
            "TFLOP_a_LoRA_step": each, "steps": steps,
            "GPU_seconds_a_LoRA": steps * each / sustained, "GPU_years": seconds / 3600 / 24 / 365,
            "days_on_64_GPUs": seconds / 64 / 86_400, "manifest_MB": million * LINE / 1e6,
        }  # fmt: skip
        print(json.dumps(said))


PARTS = {"storage": storage, "memory": memory, "build": build, "flops": flops, "plan": plan}

if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit()
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    PARTS[sys.argv[1]]()
