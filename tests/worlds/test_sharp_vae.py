"""A picture VAE whose code and decoder count what tells people apart for more, and the pool of pictures it learns from."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lorasynth.errors import UsageError
from lorasynth.training import LoopConfig
from lorasynth.worlds.pool import draw_pool
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.portraits.factors import IDENTITY
from lorasynth.worlds.sharp_vae import (
    Phase,
    SharpVAEConfig,
    build_sharp_vae,
    centre_map,
    pixel_weights,
    train_sharp_decoder,
    weighted_error,
)
from lorasynth.worlds.vae import affine_encoder, build_vae, encode, encode_affine

LOOP = LoopConfig(steps=2, warmup_steps=1)
TINY = SharpVAEConfig(
    pool_people=40, pca_people=40, bf16=False,
    phases=(Phase(crop=16, batch_size=2, loop=LOOP), Phase(crop=32, batch_size=1, loop=LOOP)),
)  # fmt: skip
PERSONS = list(range(40))


@pytest.fixture
def pool(tmp_path):
    return draw_pool(DOMAIN, PERSONS, [0] * 40, 32, tmp_path / "pool.npy")


@pytest.fixture
def vae(pool):
    return build_sharp_vae(pool, TINY)


def test_pool_holds_the_drawn_pictures(pool):
    zero = torch.zeros(3, dtype=torch.long)
    pictures = pool.batch(torch.tensor([1, 5, 7]), zero, zero, 32)
    torch.testing.assert_close(pictures[:, :3], DOMAIN.photos([1, 5, 7], [0] * 3, 32), atol=0.5 / 255 + 1e-6, rtol=0)


def test_pool_crops_at_the_place_asked_for(pool):
    one, zero = torch.ones(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    whole, part = pool.batch(one, zero, zero, 32), pool.batch(one, one * 3, one * 6, 8)
    assert torch.equal(part, whole[:, :, 3:11, 6:14])


def test_pool_is_drawn_once(pool, tmp_path):
    before = (tmp_path / "pool.npy").stat().st_mtime_ns
    again = draw_pool(DOMAIN, PERSONS, [0] * 40, 32, tmp_path / "pool.npy")
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


@pytest.mark.parametrize("chroma", [1.0, 1.5])
@pytest.mark.slow
def test_encoder_computes_its_affine_map_at_128_pixels(chroma):
    pictures = DOMAIN.photos(PERSONS, [0] * 40, 128)
    vae = build_vae(pictures, weights=1 + torch.rand(40, 1, 128, 128), chroma=chroma, widths=(16, 32, 96, 96))
    assert vae.config.sample_size == 128
    through_network, by_map = encode(vae, pictures[:8]), encode_affine(*affine_encoder(vae), pictures[:8])
    assert by_map.shape == (8, 16, 16, 16)
    assert (through_network - by_map).abs().max() < 0.02
    assert by_map.std() == pytest.approx(1, abs=0.15)


def linear_error(vae, pictures, weights):
    """Weighted squared error of the best linear reconstruction of patches from latents."""
    patches = F.pixel_unshuffle(pictures, 8).permute(0, 2, 3, 1).reshape(-1, 192)
    latents = encode_affine(*affine_encoder(vae), pictures).permute(0, 2, 3, 1).reshape(-1, 16)
    root = F.avg_pool2d(weights, 8).flatten().sqrt()[:, None]
    x = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    solution = torch.linalg.lstsq((x * root).double(), (patches * root).double()).solution
    return (((x.double() @ solution) - patches) * root).square().sum().item()


def test_weights_say_which_patches_the_code_is_for():
    pictures = DOMAIN.photos(PERSONS, [0] * 40, 64)
    weights = torch.full((40, 1, 64, 64), 1e-3)
    weights[:, :, :16] = 1  # the crown, and nothing else
    for_crown, for_all = build_vae(pictures, weights=weights), build_vae(pictures)
    assert linear_error(for_crown, pictures, weights) < 0.9 * linear_error(for_all, pictures, weights)
    assert linear_error(for_all, pictures, torch.ones_like(weights)) < linear_error(
        for_crown, pictures, torch.ones_like(weights)
    )


def test_chroma_keeps_colours_of_small_things():
    """Of pictures that are gray but for saturated dots, more of the colour comes through where it counts more."""
    pictures = DOMAIN.photos(PERSONS, [0] * 40, 64)
    gray = pictures.mean(1, keepdim=True)
    coloured = gray + 0.15 * (pictures - gray)
    saturation = coloured - coloured.mean(1, keepdim=True)

    def lost(chroma):
        vae = build_vae(coloured, chroma=chroma)
        latents = encode_affine(*affine_encoder(vae), coloured).permute(0, 2, 3, 1).reshape(-1, 16)
        patches = F.pixel_unshuffle(saturation, 8).permute(0, 2, 3, 1).reshape(-1, 192)
        x = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()
        return (x @ torch.linalg.lstsq(x, patches.double()).solution - patches).square().sum()

    assert lost(3.0) < 0.8 * lost(1.0)


def test_unequal_last_widths_are_refused(pool):
    with pytest.raises(UsageError, match=r"last two levels .* equally wide, got \(16, 32, 64, 96\)"):
        build_sharp_vae(pool, replace(TINY, widths=(16, 32, 64, 96)))


def test_error_is_counted_by_weight():
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    weights = torch.rand(2, 1, 16, 16)
    assert weighted_error(a, a, weights, TINY) == 0
    torch.testing.assert_close(weighted_error(a, b, 3 * weights, TINY), 3 * weighted_error(a, b, weights, TINY))
    plain = replace(TINY, edge_weight=0.0, area_weight=0.0)
    torch.testing.assert_close(weighted_error(a, b, weights, plain), ((a - b).abs() * weights).mean())


def test_details_count_most_and_the_background_least():
    centre = centre_map(32).expand(1, 1, 32, 32)
    details = torch.zeros(1, 1, 32, 32)
    details[..., 16, 16] = 1
    weights = pixel_weights(details, centre, TINY)[0, 0]
    assert weights[16, 16] == weights.max() == 11
    assert weights[16, 20] == 3
    assert weights[0, 0] == weights.min() == 1


@pytest.mark.slow
def test_decoder_training_leaves_latents_alone(pool, vae):
    pictures = DOMAIN.photos([1, 2], [0, 0], 32)
    before = encode(vae, pictures)
    with torch.no_grad():
        decoded = vae.decode(before).sample
    train_sharp_decoder(vae, pool, TINY)
    assert torch.equal(encode(vae, pictures), before)
    with torch.no_grad():
        assert not torch.equal(vae.decode(before).sample, decoded)


@pytest.mark.slow
def test_decoder_training_resumes_to_the_same_weights(pool, vae, tmp_path):
    train_sharp_decoder(vae, pool, TINY, run_dir=tmp_path / "run")
    again = build_sharp_vae(pool, TINY)
    train_sharp_decoder(again, pool, TINY, run_dir=tmp_path / "run")
    for a, b in zip(vae.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
