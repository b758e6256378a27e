"""A real, tiny Stable Diffusion from configurations alone: no download, random weights, a fraction of a second a picture.

NOTE: lorasynth is imported inside the fixtures only; see tests/conftest.py.
"""

import pytest
import torch

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj")
TEXT_WIDTH = 32


def build_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=2, norm_num_groups=32,
    )  # fmt: skip
    return unet.requires_grad_(False).eval()


def build_pipeline():
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=32, projection_dim=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(1)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=8, latent_channels=4,
                          down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        text_encoder=CLIPTextModel(config), tokenizer=tokenizer, unet=build_unet(), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def unet():
    """A fresh UNet, always with the same weights."""
    return build_unet()


@pytest.fixture(scope="session")
def make_unet():
    """Function that builds that UNet again."""
    return build_unet


@pytest.fixture(scope="session")
def shared_pipe():
    return build_pipeline()


@pytest.fixture
def pipe(shared_pipe):
    """The pipeline, with no adapter before and after."""
    yield shared_pipe
    shared_pipe.unload_lora_weights()


@pytest.fixture(scope="session")
def layout():
    """Rank 2 on everything linear in the UNet's blocks, the 2-D inputs of time_emb_proj included."""
    from lorasynth.lora.layout import Layout

    return Layout.from_model(build_unet(), TARGETS, rank=2, base="tiny")


@pytest.fixture(scope="session")
def whole_layout():
    """Rank 2 on every layer that PEFT can adapt: all linear ones and all convolutions, strided and 1 x 1 ones included."""
    from lorasynth.lora.layout import Layout

    unet = build_unet()
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return Layout.from_model(unet, [n for n, m in unet.named_modules() if isinstance(m, kinds)], rank=2, base="tiny")


@pytest.fixture(scope="session")
def mixed_layout(layout):
    """Rank 1, 2 or 3, from module to module."""
    from dataclasses import replace

    from lorasynth.lora.layout import Layout

    modules = tuple(replace(m, rank=1 + i % 3) for i, m in enumerate(layout.modules))
    return Layout(base="tiny", modules=modules)


@pytest.fixture
def inputs():
    """Latents, timesteps and text states of six samples."""
    g = torch.Generator().manual_seed(2)
    return {
        "sample": torch.randn(6, 4, 8, 8, generator=g),
        "timestep": torch.tensor([1, 50, 200, 400, 700, 999]),
        "encoder_hidden_states": torch.randn(6, 5, TEXT_WIDTH, generator=g),
    }


@pytest.fixture
def predict(inputs):
    """Function from a UNet to its output on `inputs`."""

    @torch.no_grad()
    def run(unet):
        dtype = next(unet.parameters()).dtype
        given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        return unet(**given, return_dict=False)[0]

    return run
