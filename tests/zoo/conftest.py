"""A tiny frozen UNet, its schedule and made-up photos: what fine-tuning needs, in milliseconds."""

import pytest
import torch

from lorasynth.lora.layout import Layout
from lorasynth.worlds.base import BaseConfig, build_scheduler, build_unet
from lorasynth.worlds.world import TARGET_MODULES, Photos


@pytest.fixture(scope="session")
def tiny():
    torch.manual_seed(0)
    unet = build_unet(BaseConfig(channels=(32, 32), num_heads=1, text_width=16), latent_channels=4)
    unet.requires_grad_(False).eval()
    layout = Layout.from_model(unet, TARGET_MODULES, rank=2, base="tiny")
    generator = torch.Generator().manual_seed(1)
    photos = Photos(
        latents=torch.randn(3, 4, 4, 8, 8, generator=generator), text=torch.randn(3, 4, 5, 16, generator=generator)
    )
    return unet, build_scheduler(), layout, photos
