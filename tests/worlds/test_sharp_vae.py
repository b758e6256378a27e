"""The picture VAE that is trained on a pool of pictures, with errors that count more where details are."""

from dataclasses import replace

import pytest
import torch

from lorasynth.training import LoopConfig
from lorasynth.worlds.pool import draw_pool
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.portraits.factors import IDENTITY
from lorasynth.worlds.sharp_vae import (
    Phase,
    SharpVAEConfig,
    build_sharp_vae,
    train_sharp_decoder,
    train_sharp_vae,
    vae_loss,
)

_LOOP = LoopConfig(steps=2, warmup_steps=1)
TINY = SharpVAEConfig(
    channels=(8, 8), latent_channels=4, num_groups=4, pool_people=8, bf16=False,
    phases=(Phase(crop=8, batch_size=2, loop=_LOOP), Phase(crop=16, batch_size=1, loop=_LOOP)),
    decoder=Phase(crop=16, batch_size=1, decoder_only=True, loop=_LOOP),
)  # fmt: skip


@pytest.fixture
def pool(tmp_path):
    return draw_pool(DOMAIN, list(range(8)), [0] * 8, 16, tmp_path / "pool.npy")


def test_pool_holds_the_drawn_pictures(pool):
    zero = torch.zeros(3, dtype=torch.long)
    pictures = pool.batch(torch.tensor([1, 5, 7]), zero, zero, 16)
    torch.testing.assert_close(pictures[:, :3], DOMAIN.photos([1, 5, 7], [0] * 3, 16), atol=0.5 / 255 + 1e-6, rtol=0)


def test_pool_crops_at_the_place_asked_for(pool):
    one, zero = torch.ones(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    whole, part = pool.batch(one, zero, zero, 16), pool.batch(one, one * 3, one * 6, 8)
    assert torch.equal(part, whole[:, :, 3:11, 6:14])


def test_pool_is_drawn_once(pool, tmp_path):
    before = (tmp_path / "pool.npy").stat().st_mtime_ns
    again = draw_pool(DOMAIN, list(range(8)), [0] * 8, 16, tmp_path / "pool.npy")
    assert (tmp_path / "pool.npy").stat().st_mtime_ns == before
    assert (again.rows == pool.rows).all()
    assert not list(tmp_path.glob("*.part"))


def test_detail_map_marks_glasses_and_nothing_else(tmp_path):
    persons = list(range(2_000))
    factors = DOMAIN.identity_factors(persons)
    small = [IDENTITY.index(name) for name in DOMAIN.details if name != "glasses"]
    bare = factors[:, small].amax(1) < 0.35
    worn = factors[:, IDENTITY.index("glasses")]
    with_glasses = [p for p in persons if bare[p] and worn[p] > 0.8]
    without = [p for p in persons if bare[p] and worn[p] < 0.6]
    assert min(len(with_glasses), len(without)) > 3
    persons = with_glasses + without
    maps = draw_pool(DOMAIN, persons, [0] * len(persons), 64, tmp_path / "p.npy").rows[:, 3]
    marked = (maps > 128).mean((1, 2))
    assert marked[: len(with_glasses)].min() > 0.02
    assert marked[len(with_glasses) :].max() == 0


def test_loss_counts_errors_by_their_weight(pool):
    vae = build_sharp_vae(TINY, 16)
    pictures = DOMAIN.photos([1, 2], [0, 0], 16)
    config = replace(TINY, kl_weight=0.0)

    def loss(weight):
        with torch.no_grad():
            return vae_loss(vae, pictures, weight, config, torch.Generator().manual_seed(0))

    ones = torch.ones(2, 1, 16, 16)
    torch.testing.assert_close(loss(3 * ones), 3 * loss(ones))
    assert loss(0 * ones) == 0


def test_training_measures_the_scaling_factor(pool, tmp_path):
    vae = build_sharp_vae(TINY, 16)
    train_sharp_vae(vae, pool, TINY, run_dir=tmp_path / "run")
    with torch.no_grad():
        latents = vae.encode(DOMAIN.photos(list(range(8)), [0] * 8, 16) * 2 - 1).latent_dist.mode()
    assert (latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=0.02)


def test_training_resumes_to_the_same_weights(pool, tmp_path):
    first, second = build_sharp_vae(TINY, 16), build_sharp_vae(TINY, 16)
    train_sharp_vae(first, pool, TINY, run_dir=tmp_path / "run")
    train_sharp_vae(second, pool, TINY, run_dir=tmp_path / "run")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_decoder_training_leaves_latents_alone(pool):
    vae = build_sharp_vae(TINY, 16)
    pictures = DOMAIN.photos([1, 2], [0, 0], 16) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist.mode()
        picture_before = vae.decode(before).sample
    train_sharp_decoder(vae, pool, TINY)
    with torch.no_grad():
        assert torch.equal(vae.encode(pictures).latent_dist.mode(), before)
        assert not torch.equal(vae.decode(before).sample, picture_before)
