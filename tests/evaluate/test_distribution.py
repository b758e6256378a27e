"""Distances of sets against closed forms and against a matrix root."""

import numpy as np
import pytest
import torch

from lorasynth.evaluate.distribution import frechet_distance, people_spread, picture_spread


def sample(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + torch.randn(d, generator=g)


def test_frechet_distance_is_that_of_the_matrix_root():
    x, y = sample(300, 6, 0), sample(200, 6, 1)
    of_x, of_y = (np.cov(part.double().numpy().T) for part in (x, y))
    means = (x.double().mean(0) - y.double().mean(0)).square().sum().item()
    values, vectors = np.linalg.eig(of_x @ of_y)
    root = vectors @ np.diag(np.sqrt(values)) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(root @ root, of_x @ of_y, rtol=1e-6, atol=1e-6)
    expected = means + np.trace(of_x + of_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_fewer_samples_than_dimensions_are_no_harm():
    x = sample(5, 40, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + 1) == pytest.approx(40, rel=1e-5)
    # Of orthogonal sets nothing is common: the traces add up.
    y = torch.zeros(5, 80)
    left, right = y.clone(), y.clone()
    left[:, :40], right[:, 40:] = x - x.mean(0), x - x.mean(0)
    assert frechet_distance(left, right) == pytest.approx(2 * x.double().var(0).sum().item(), rel=1e-5)


def test_few_samples_of_one_distribution_seem_far_apart():
    """The bias that the docstring warns of."""
    g = torch.Generator().manual_seed(0)
    few, many = (frechet_distance(*torch.randn(2, n, 64, generator=g)) for n in (40, 4_000))
    assert few > 20 * many


def test_same_picture_for_all_prompts_has_no_spread():
    pictures = torch.zeros(2, 3, 3, 4, 4)
    pictures[1, 0] = 1.0  # one of three differs: two pairs of three
    assert picture_spread(pictures).tolist() == pytest.approx([0.0, 2 / 3])


def test_spread_of_one_person_is_zero_and_of_strangers_not():
    alike, strangers = torch.eye(4)[:1].expand(3, 1, 4), torch.eye(4)[:3, None]
    assert people_spread(alike) == pytest.approx(0.0)
    assert people_spread(strangers) == pytest.approx(1.0)
