"""The objective of the weight VAE, and how much of its latent is in use."""

import torch
from jaxtyping import Float
from torch import Tensor


def reconstruction_error(
    c: Float[Tensor, "B K"], reconstructed: Float[Tensor, "B K"], missing: float = 0.0
) -> Float[Tensor, ""]:
    """Squared error as a part of the squared size of the batch: 0 is exact, 1 as bad as answering with the mean.

    ``missing`` is the squared size, an item, of what lies outside the stem's components and cannot be reconstructed.
    """
    size = c.square().sum(1).mean() + missing
    return ((c - reconstructed).square().sum(1).mean() + missing) / size


def kl_divergence(mean: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"]) -> Float[Tensor, " Z"]:
    """KL from the posterior to a standard normal, for each latent dimension, mean over the batch (in nats)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)


def active_units(mean: Float[Tensor, "N Z"], threshold: float = 0.01) -> int:
    """Latent dimensions whose posterior mean varies over the data by more than ``threshold`` (Burda et al., ICLR 2016).

    Good is all of them. Few means that the KL weight has switched the others off.
    """
    return int((mean.var(dim=0) > threshold).sum())


def vae_loss(
    c: Float[Tensor, "B K"],
    reconstructed: Float[Tensor, "B K"],
    mean: Float[Tensor, "B Z"],
    logvar: Float[Tensor, "B Z"],
    kl_weight: float,
) -> Float[Tensor, ""]:
    """Reconstruction plus ``kl_weight`` (the paper's β < 1) times the KL, both as means over their dimensions."""
    reconstruction = (c - reconstructed).square().sum(1).mean() / c.shape[1]
    return reconstruction + kl_weight * kl_divergence(mean, logvar).mean()


def sample_posterior(
    mean: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"], noise: Float[Tensor, "B Z"]
) -> Float[Tensor, "B Z"]:
    """A reparameterised sample (Kingma & Welling, ICLR 2014), from standard normal noise."""
    return mean + torch.exp(0.5 * logvar) * noise
