"""A base of large pictures that begins as a base of small pictures."""

import pytest
import torch
import torch.nn.functional as F

from lorasynth.base import denoising_loss
from lorasynth.errors import UsageError
from lorasynth.worlds.base import BaseConfig, build_pipeline
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.vae import build_vae, encode
from lorasynth.worlds.warm_start import warm_start
from lorasynth.worlds.world import World, get_domain, get_world

DOMAIN = get_domain("portraits128")
WIDTHS = (16, 32, 64, 96, 96)


@pytest.fixture(scope="module")
def small():
    return get_world("portraits").base.pipe


@pytest.fixture(scope="module")
def pictures():
    return DOMAIN.photos(list(range(100)), [0] * 100, 128)


def untrained(pictures, **settings):
    vae = build_vae(pictures, widths=WIDTHS, latent_channels=32).requires_grad_(False)
    return build_pipeline(DOMAIN.vocabulary, vae, BaseConfig(**settings))


def loss_of(pipe, pictures, size):
    """Of the base's own task on 16 pictures, with the same noise."""
    base, g = DrawnBase(pipe=pipe, name="portraits128", picture_size=size), torch.Generator().manual_seed(0)
    latents = encode(pipe.vae, pictures[:16])
    level, captions = (
        base.schedule.level((torch.arange(16) + 0.5) / 16),
        get_domain("portraits").captions(list(range(16)), [0] * 16),
    )
    with torch.no_grad():
        return (
            denoising_loss(base, latents, torch.randn(latents.shape, generator=g), level, base.prompts(captions))
            .mean()
            .item()
        )


@pytest.mark.slow
def test_base_denoises_large_pictures_before_any_training(small, pictures):
    pipe = untrained(pictures)
    before = loss_of(pipe, pictures, 128)
    warm_start(pipe, small, pictures)
    after = loss_of(pipe, pictures, 128)
    assert before > 0.9  # an untrained one knows nothing: v has variance 1
    assert after < 0.75 * before
    assert pipe.text_encoder.dtype == torch.float32


@pytest.mark.slow
def test_words_that_both_know_mean_the_same(small, pictures):
    pipe = untrained(pictures)
    warm_start(pipe, small, pictures)
    states = []
    for each in (pipe, small):
        ids = each.tokenizer("a photo of a person with red hair, smiling", padding="max_length", return_tensors="pt")
        with torch.no_grad():
            states.append(each.text_encoder(ids.input_ids)[0])
    torch.testing.assert_close(*states)


@pytest.mark.slow
def test_base_of_the_same_code_draws_what_the_small_one_draws(small):
    """Without a change of code the map is the identity, and so the pipeline draws what the small one draws."""
    few = DOMAIN.photos(list(range(100)), [0] * 100, 64)
    pipe = build_pipeline(DOMAIN.vocabulary, small.vae, BaseConfig())
    warm_start(pipe, small, few)
    torch.testing.assert_close(loss_of(pipe, few, 64), loss_of(small, few, 64), rtol=1e-3, atol=0)
    noisy, states = torch.randn(2, 16, 8, 8), torch.randn(2, 40, 96)
    with torch.no_grad():
        ours, theirs = (each.unet(noisy, 500, states).sample for each in (pipe, small))
    assert F.mse_loss(ours, theirs) < 1e-6


@pytest.mark.slow
def test_base_of_another_shape_is_refused(small, pictures):
    pipe = untrained(pictures, channels=(32, 64))
    with pytest.raises(UsageError, match=r"UNet: expected .* in the base to start from, got .*; choose a base config"):
        warm_start(pipe, small, pictures)


def test_same_people_are_known_by_the_smaller_worlds_encoder(tmp_path):
    (tmp_path / "portraits128").mkdir()
    world = World(domain=DOMAIN, folder=tmp_path / "portraits128")
    assert world.encoder_file == tmp_path / "portraits" / "encoder.safetensors"
    (own := tmp_path / "portraits128" / "encoder.safetensors").touch()
    assert world.encoder_file == own
