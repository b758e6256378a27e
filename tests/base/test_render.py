"""Rendering many LoRAs at once is the pipeline, LoRA by LoRA."""

import pytest
import torch

from lorasynth.base import render
from lorasynth.lora.factors import LoRA
from lorasynth.worlds.world import get_world


@pytest.mark.integration
def test_picture_from_the_bank_is_the_pipelines_own_picture(tmp_path):
    world = get_world("portraits")
    layout = world.base.layout(2)
    vectors = torch.stack([LoRA.random(layout, seed=s, std=0.05).vector for s in range(2)])
    prompts = list(world.prompts[:2])
    from_bank = render(world.base, prompts, layout, vectors, seed=3, guidance_scale=2.0, num_inference_steps=4)
    noise = torch.randn(2, world.base.pipe.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    file = LoRA(layout, vectors[1]).save(tmp_path / "one.safetensors")
    world.base.pipe.load_lora_weights(tmp_path, weight_name=file.name)
    try:
        alone = world.base.pipe(
            prompts, latents=noise, num_inference_steps=4, guidance_scale=2.0, output_type="pt"
        ).images
    finally:
        world.base.pipe.unload_lora_weights()
    assert (from_bank[1] - alone).abs().max() < 2e-3
    assert (from_bank[0] - alone).abs().max() > 1e-2
