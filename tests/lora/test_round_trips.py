"""Between all formats at the layouts of the real models, by what a LoRA does: its updates."""

import itertools

import pytest
import torch

from lorasynth.lora.factors import LoRA, delta_W_relative_error
from lorasynth.lora.layout import Layout

# Each format follows each other one once.
WALK = ("kohya", "diffusers", "kohya", "peft", "diffusers", "peft", "kohya")


def test_walk_takes_each_step():
    assert set(itertools.pairwise(WALK)) == set(itertools.permutations(set(WALK), 2))


PRESETS = ("sd15-w2w", "sd15-attn", "sd15-kohya", "sdxl-attn")
LARGEST = ("sd15-kohya", "sdxl-attn")  # of their models: the others' modules are among theirs


@pytest.mark.parametrize(
    ("preset", "dtype", "bound"),
    [*((name, torch.float32, 1e-5) for name in PRESETS), *((name, torch.float16, 5e-3) for name in LARGEST)],
)
@pytest.mark.slow
def test_every_format_after_every_other_keeps_each_update(tmp_path, preset, dtype, bound):
    lora = LoRA.random(Layout.preset(preset, rank=1), seed=1)
    here = lora
    for step, format in enumerate(WALK):
        path = tmp_path / (f"{step}" if format == "peft" else f"{step}.safetensors")
        here = LoRA.load(here.save(path, format, dtype))
        assert here.layout == lora.layout
        error = delta_W_relative_error(lora.layout, lora.vector[None], here.vector[None]).sqrt().item()
        assert error <= bound, f"step {step}, {format}: {error:.2g}"
    for m in lora.layout.modules[::20]:
        before, after = lora.delta_W(m.name), here.delta_W(m.name)
        assert (after - before).norm() <= bound * before.norm(), m.name
