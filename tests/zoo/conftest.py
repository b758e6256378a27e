"""A tiny frozen base and made-up photos: what fine-tuning needs, in milliseconds."""

import pytest
import torch

from lorasynth.base import Photos, Prompts
from lorasynth.base.sd import StableDiffusion
from lorasynth.worlds.base import build_scheduler
from lorasynth.worlds.drawn_base import TARGET_MODULES

from ..tiny_pipelines import SIZE, sd15


@pytest.fixture(scope="session")
def tiny():
    torch.manual_seed(0)
    pipe = sd15(
        build_scheduler(), attention_head_dim=1, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    base = StableDiffusion(pipe=pipe, name="tiny", picture_size=SIZE)
    generator = torch.Generator().manual_seed(1)
    prompts = Prompts({"encoder_hidden_states": torch.randn(12, 5, 32, generator=generator)})
    photos = Photos(
        latents=torch.randn(3, 4, *base.latent_shape, generator=generator), prompts=prompts,
        caption=torch.arange(12).view(3, 4),
    )  # fmt: skip
    return base, base.layout(2, TARGET_MODULES), photos
