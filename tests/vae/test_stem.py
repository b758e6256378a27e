"""The stem's directions, against numpy and against a zoo whose truth is known."""

import numpy as np
import pytest
import torch

from lorasynth.errors import ZooError
from lorasynth.vae.stem import predictable_directions, principal_directions


def zoo(loud=5.0, people=300, seed=0):
    """LoRAs of 20 numbers: the first 3 follow a person's embedding, the last 3 are noise that is ``loud``."""
    g = torch.Generator().manual_seed(seed)
    embedding = torch.randn(people, 6, generator=g)
    x = 0.05 * torch.randn(people, 20, generator=g)
    x[:, :3] += embedding @ torch.randn(6, 3, generator=g) * 0.5
    x[:, -3:] += loud * torch.randn(people, 3, generator=g)
    return x - x.mean(0), embedding


def overlap(directions, axes):
    """How much of some axes lies in the span of directions: 1 is all of it."""
    return directions[:, axes].square().sum().item() / len(axes)


def test_principal_directions_are_numpys_right_singular_vectors():
    x, _ = zoo()
    found = principal_directions(x, 5).double().numpy()
    _, _, vh = np.linalg.svd(x.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(np.abs(found @ vh[:5].T), np.eye(5), atol=1e-3)


def test_predictable_directions_find_the_person_under_louder_noise():
    x, embedding = zoo(loud=3.0, people=2000)
    assert overlap(principal_directions(x, 3), [0, 1, 2]) < 0.1
    assert overlap(predictable_directions(x, embedding, 3, lam=1e-3), [0, 1, 2]) > 0.8


def test_predictable_directions_are_the_components_of_ridges_predictions():
    x, embedding = zoo(seed=1)
    e = (embedding - embedding.mean(0)).double().numpy()
    gram = e.T @ e
    w = np.linalg.solve(gram + 0.3 * np.diag(gram).mean() * np.eye(6), e.T @ x.double().numpy())
    _, _, vh = np.linalg.svd(e @ w, full_matrices=False)
    found = predictable_directions(x, embedding, 4, lam=0.3).double().numpy()
    np.testing.assert_allclose(np.abs(found @ vh[:4].T), np.eye(4), atol=1e-3)


@pytest.mark.parametrize("num", [1, 4])
def test_directions_are_orthonormal(num):
    x, embedding = zoo()
    for directions in (principal_directions(x, num), predictable_directions(x, embedding, num)):
        torch.testing.assert_close(directions @ directions.T, torch.eye(num), rtol=0, atol=1e-5)


def test_more_directions_than_there_can_be_are_refused():
    x, embedding = zoo(people=8)
    with pytest.raises(ZooError, match=r"expected at least 9 LoRAs .* got 8 of 20"):
        principal_directions(x, 8)
    with pytest.raises(ZooError, match="7 embedding dimensions for 7 components, got 8, 20 and 6"):
        predictable_directions(x, embedding, 7)
