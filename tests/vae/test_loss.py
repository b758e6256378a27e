"""The objective against torch.distributions, and the figures against their definitions."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from lorasynth.vae import loss


def posterior(seed=0, n=5, latent_dim=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, latent_dim, generator=g), 2 * torch.randn(n, latent_dim, generator=g)


def test_kl_is_that_of_torch_distributions():
    mean, logvar = posterior()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(loss.kl_divergence(mean, logvar), expected.mean(0))


def test_kl_is_zero_at_the_standard_normal_and_nowhere_else():
    zero = torch.zeros(4, 3)
    assert (loss.kl_divergence(zero, zero) == 0).all()
    assert (loss.kl_divergence(*posterior()) > 0).all()
    assert (loss.kl_divergence(zero, zero - 1) > 0).all()


def test_loss_at_weight_1_is_the_negative_evidence_bound():
    """With as many coefficients as latents, K times the loss is the bound up to the normal density's constant."""
    mean, logvar = posterior()
    c, reconstructed = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    decoder = Independent(Normal(reconstructed, 0.5**0.5), 1)  # -log p = |c - c'|^2 + constant
    constant = 1.5 * np.log(np.pi)
    kl = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    bound = (-decoder.log_prob(c) - constant + kl).mean()
    torch.testing.assert_close(3 * loss.vae_loss(c, reconstructed, mean, logvar, 1.0), bound)


def test_kl_weight_multiplies_the_kl_alone():
    mean, logvar = posterior()
    c, reconstructed = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    at = {w: loss.vae_loss(c, reconstructed, mean, logvar, w).item() for w in (0.0, 0.5, 1.0)}
    assert at[0.0] == pytest.approx(np.square((c - reconstructed).numpy()).mean(), rel=1e-5)
    assert at[1.0] - at[0.5] == pytest.approx(at[0.5] - at[0.0], rel=1e-4)


def test_reconstruction_error_is_0_if_exact_and_1_for_the_mean():
    c = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert loss.reconstruction_error(c, c).item() == 0
    assert loss.reconstruction_error(c, torch.zeros_like(c)).item() == pytest.approx(1)
    assert loss.reconstruction_error(c, torch.zeros_like(c), 3.0).item() == pytest.approx(1)


def test_reconstruction_error_counts_what_is_missing():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    x, answer = rng.normal(size=(6, 9)), rng.normal(size=(6, 4))
    inside, outside = x @ basis[:, :4], x @ basis[:, 4:]
    whole = np.square(x - answer @ basis[:, :4].T).sum() / np.square(x).sum()
    got = loss.reconstruction_error(torch.tensor(inside), torch.tensor(answer), float(np.square(outside).sum(1).mean()))
    assert got.item() == pytest.approx(whole, rel=1e-12)


def test_active_units_are_the_dimensions_whose_mean_varies():
    wave = torch.linspace(-1, 1, 50)[:, None]  # of variance 0.35
    mean = wave * torch.tensor([1.0, 0.0, 0.3, 0.1]) + torch.tensor([0.0, 5.0, 0.0, 0.0])
    assert mean.numpy().var(axis=0, ddof=1) == pytest.approx([0.354, 0, 0.0319, 0.00354], abs=1e-3)
    assert loss.active_units(mean) == 2
    assert loss.active_units(mean, threshold=0.1) == 1
    assert loss.active_units(mean, threshold=0.001) == 3


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_samples_have_the_posteriors_mean_and_standard_deviation():
    mean, logvar = torch.tensor([1.5, -2.0, 0.0]), torch.tensor([0.0, -4.0, 2.0])
    n = 40_000
    z = loss.sample_posterior(mean.expand(n, -1), logvar.expand(n, -1), noise(0, n, 3))
    std = np.exp(logvar.numpy() / 2)
    assert (np.abs(z.numpy().mean(0) - mean.numpy()) < 5 * std / n**0.5).all()
    np.testing.assert_allclose(z.numpy().std(0), std, rtol=0.02)
    off_diagonal = np.corrcoef(z.numpy().T)[~np.eye(3, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.025


def test_sample_is_of_its_noise_alone_and_lets_gradients_through():
    mean, logvar = posterior()
    mean.requires_grad_()
    logvar.requires_grad_()
    z = loss.sample_posterior(mean, logvar, noise(4, *mean.shape))
    torch.manual_seed(8)
    assert torch.equal(z, loss.sample_posterior(mean, logvar, noise(4, *mean.shape)))
    assert not torch.equal(z, loss.sample_posterior(mean, logvar, noise(5, *mean.shape)))
    # z = mean + std * noise: the derivatives are 1 and (z - mean) / 2.
    by_mean, by_logvar = torch.autograd.grad(z.sum(), (mean, logvar))
    assert (by_mean == 1).all()
    torch.testing.assert_close(by_logvar, (z - mean).detach() / 2)
