"""Directions in two steps are orthonormal, cost what they may, and lose nothing where they may cost enough."""

import numpy as np
import pytest
import torch

from lorasynth.vae.stem import Stem, predictable_stem, principal_stem

BLOCKS = [30, 6, 14]


def zoo(n=200, rank=12, seed=0):
    """LoRAs of 50 numbers in three modules, of few directions each and a little noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, rank)) * np.geomspace(3, 0.5, rank) @ rng.normal(size=(rank, 50))
    x += 0.01 * rng.normal(size=x.shape)
    return torch.tensor(x - x.mean(0), dtype=torch.float32)


def directions(stem):
    return stem.lift(torch.eye(stem.num_components)).double().numpy()


def cost(stem):
    return sum(table.numel() for table in stem.local)


@pytest.mark.parametrize("numbers", [10**6, 400, 1])
def test_directions_are_orthonormal_whatever_they_may_cost(numbers):
    stem = principal_stem(zoo(), 8, BLOCKS, numbers)
    assert (stem.num_components, stem.num_features) == (8, 50)
    rows = directions(stem)
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-4)
    for table in stem.local:
        np.testing.assert_allclose(table @ table.T, np.eye(len(table)), atol=1e-4)


def test_stem_with_enough_numbers_has_principal_components():
    x = zoo()
    rows = directions(principal_stem(x, 8, BLOCKS, 10**6))
    vh = np.linalg.svd(x.double().numpy(), full_matrices=False)[2][:8]
    np.testing.assert_allclose(rows.T @ rows, vh.T @ vh, atol=1e-3)


def test_local_directions_hold_more_than_whole_ones_for_the_cost():
    x = zoo(rank=25)
    stem = principal_stem(x, 20, BLOCKS, 500)
    assert 400 < cost(stem) <= 500
    # As many numbers are 10 directions of 50.
    vh = np.linalg.svd(x.double().numpy(), full_matrices=False)[2][:10]
    kept = stem(x).square().sum().item()
    assert kept > np.square(x.double().numpy() @ vh.T).sum()


def test_every_module_has_a_direction_and_all_have_the_count():
    stem = principal_stem(zoo(), 8, BLOCKS, 1)
    assert all(len(table) >= 1 for table in stem.local)
    assert sum(len(table) for table in stem.local) >= 8


def test_lift_is_the_transpose_and_undoes_within_the_span():
    x = zoo()
    stem = principal_stem(x, 8, BLOCKS, 400)
    c = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stem(stem.lift(c)), c, rtol=0, atol=1e-4)
    torch.testing.assert_close((stem.lift(c) * x[:5]).sum(1), (c * stem(x[:5])).sum(1), rtol=1e-3, atol=1e-3)


def test_predictable_directions_are_those_an_embedding_moves():
    rng = np.random.default_rng(1)
    embedding = torch.tensor(rng.normal(size=(3000, 6)), dtype=torch.float32)
    way = torch.tensor(np.linalg.qr(rng.normal(size=(50, 50)))[0], dtype=torch.float32)
    loud = torch.tensor(rng.normal(size=(3000, 10)), dtype=torch.float32) * 5 @ way[10:20]
    x = embedding @ way[:6] + loud
    x = x - x.mean(0)
    stem = predictable_stem(x, embedding, 6, BLOCKS, 10**6)
    quiet = embedding @ way[:6]
    assert stem(quiet).square().sum() > 0.8 * quiet.square().sum()
    assert stem(loud).square().sum() < 0.2 * loud.square().sum()
    loudest = principal_stem(x, 6, BLOCKS, 10**6)
    assert loudest(quiet).square().sum() < 0.2 * quiet.square().sum()


def test_steps_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="3 local directions for 4 columns"):
        Stem([torch.eye(3)], torch.eye(4))


def test_trained_directions_become_orthonormal_unchanged():
    stem = principal_stem(zoo(), 8, BLOCKS, 400)
    g = torch.Generator().manual_seed(0)
    for table in stem.local:
        table += 0.3 * torch.randn(table.shape, generator=g)
    c, x = torch.randn(5, 8, generator=g), zoo()[:5]
    lifted, seen = stem.lift(c), stem(x)
    change = stem.orthonormalize()
    rows = directions(stem)
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-5)
    torch.testing.assert_close(stem.lift(c @ change), lifted, rtol=0, atol=1e-4)
    torch.testing.assert_close(stem(x) @ change.T, seen, rtol=0, atol=1e-3)
