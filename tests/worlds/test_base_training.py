"""A base model and its decoder train in the one loop: they learn, resume with the same bits, and leave frozen weights."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lorasynth.errors import UsageError
from lorasynth.training import LoopConfig, Processes
from lorasynth.worlds.base import BaseConfig, build_pipeline
from lorasynth.worlds.base_training import train_base
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.vae import affine_encoder, build_vae, encode_affine
from lorasynth.worlds.vae_training import DecoderConfig, train_decoder

LOOP = LoopConfig(steps=3, learning_rate=1e-3, warmup_steps=1, ema_decay=0.5)
BASE = BaseConfig(channels=(32, 32), num_heads=1, text_width=32, batch_size=2, loop=LOOP)


def pictures(count, generator):
    return DOMAIN.photos(torch.randint(1000, (count,), generator=generator).tolist(), [0] * count, 64)


@pytest.fixture(scope="module")
def start():
    """An untrained picture VAE."""
    torch.manual_seed(0)
    return build_vae(DOMAIN.photos(list(range(40)), [0] * 40, 64))


def trained_base(start, run_dir=None, config=BASE):
    pipe = build_pipeline(DOMAIN.vocabulary, start, config)
    base = DrawnBase(pipe=pipe, name="portraits", picture_size=64)

    def batch(count, generator):
        who = torch.randint(1000, (count,), generator=generator).tolist()
        identity, nuisance = DOMAIN.identity_factors(who), DOMAIN.nuisance_factors(who, [0] * count)
        captions = [DOMAIN.base_caption(i, n, generator) for i, n in zip(identity, nuisance, strict=True)]
        return base.encode(DOMAIN.draw(identity, nuisance, 64)), captions

    train_base(base, batch, config, run_dir=run_dir)
    return pipe


def weights(pipe, part="unet"):
    return torch.cat([p.flatten() for p in getattr(pipe, part).parameters()])


def test_unet_learns_text_encoder_stays_and_both_end_frozen(start):
    untrained = build_pipeline(DOMAIN.vocabulary, start, BASE)
    pipe = trained_base(start)
    assert not torch.equal(weights(pipe), weights(untrained))
    assert torch.equal(weights(pipe, "text_encoder"), weights(untrained, "text_encoder"))
    assert not any(p.requires_grad for part in (pipe.unet, pipe.text_encoder) for p in part.parameters())
    assert not pipe.unet.training


@pytest.mark.slow
def test_base_that_was_stopped_ends_with_the_same_bits(start, tmp_path, stopped_in_step):
    with stopped_in_step(2):
        trained_base(start, tmp_path)
    assert torch.equal(weights(trained_base(start, tmp_path)), weights(trained_base(start)))


def test_launchers_rank_that_is_no_number_is_refused(start, monkeypatch):
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match=r"^RANK: expected a number, as torchrun sets it, got 'first'"):
        trained_base(start)


def test_step_without_a_share_for_each_process_is_refused(start, monkeypatch):
    monkeypatch.setattr("lorasynth.worlds.base_training.launched", lambda: nullcontext(Processes(2, 3)))
    with pytest.raises(UsageError, match="expected 1 or 2 processes, got 3"):
        trained_base(start)


@pytest.mark.slow
def test_decoder_learns_and_the_encoder_stays():
    torch.manual_seed(0)
    vae = build_vae(DOMAIN.photos(list(range(40)), [0] * 40, 64))
    encoder = [p.detach().clone() for p in vae.encoder.parameters()]
    held = pictures(8, torch.Generator().manual_seed(7))
    weight, bias = affine_encoder(vae)

    @torch.no_grad()
    def error():
        latents = encode_affine(weight, bias, held) / vae.config.scaling_factor
        return (vae.decode(latents).sample - (held * 2 - 1)).abs().mean().item()

    before = error()
    train_decoder(vae, pictures, DecoderConfig(batch_size=4, loop=replace(LOOP, steps=12, learning_rate=3e-3)))
    assert error() < 0.9 * before
    assert all(torch.equal(a, b) for a, b in zip(vae.encoder.parameters(), encoder, strict=True))
