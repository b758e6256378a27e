"""Latent given a photo's embedding: the diffusion prior, and the baselines it has to beat."""

from lorasynth.prior.baselines import (
    BASELINES,
    Baseline,
    KernelPrior,
    MeanPrior,
    NearestPrior,
    RegressionPrior,
    RidgePrior,
)
from lorasynth.prior.conditioning import CONDITIONING
from lorasynth.prior.denoiser import Denoiser
from lorasynth.prior.diffusion import DiffusionPrior
from lorasynth.prior.training import PriorConfig, fit_prior

Predictor = DiffusionPrior | Baseline
"""Embeddings -> latents."""

__all__ = [
    "BASELINES", "CONDITIONING", "Denoiser", "DiffusionPrior", "KernelPrior", "MeanPrior", "NearestPrior", "Predictor",
    "PriorConfig", "RegressionPrior", "RidgePrior", "fit_prior", "holds_people",
]  # fmt: skip


def holds_people(prior: Predictor) -> bool:
    """Whether a prior's file has the embeddings of the zoo's people in it."""
    return isinstance(prior.centre if isinstance(prior, DiffusionPrior) else prior, (NearestPrior, KernelPrior))
