"""Rendering many LoRAs at once is the pipeline, LoRA by LoRA."""

import pytest
import torch

from lorasynth.base import render
from lorasynth.errors import UsageError
from lorasynth.lora.bank import AdapterBank
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


def test_negative_lora_is_the_one_on_the_branch_without_prompt():
    """In plain diffusers: a bank of two, whose first half of the batch is the negative prompt's."""
    world = get_world("portraits")
    layout = world.base.layout(2)
    lora, negative = (LoRA.random(layout, seed=s, std=0.05).vector for s in range(2))
    prompts = list(world.prompts[:2])
    call = {"guidance_scale": 3.0, "num_inference_steps": 3}
    ours = render(world.base, prompts, layout, torch.stack([negative, lora]), seed=3, negative=negative, **call)
    noise = torch.randn(2, world.base.pipe.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    with AdapterBank(world.base.pipe.unet, layout, 2, torch.stack([negative, lora])).attached():
        theirs = world.base.pipe(prompts, latents=noise, output_type="pt", **call).images
    assert (ours[1] - theirs).abs().max() < 2e-3
    usual = render(world.base, prompts, layout, torch.stack([negative, lora]), seed=3, **call)
    assert (ours[0] - usual[0]).abs().max() < 2e-3  # of the negative LoRA itself nothing changes
    assert (ours[1] - usual[1]).abs().max() > 1e-2


def test_negative_lora_without_guidance_is_refused():
    base = get_world("portraits").base
    layout = base.layout(1)
    zeros = torch.zeros(1, layout.num_parameters)
    with pytest.raises(
        UsageError, match="expected no negative LoRA where one pass draws, got one at guidance scale 1 "
    ):
        render(base, ["a photo"], layout, zeros, guidance_scale=1.0, negative=zeros[0])
