"""Latent given a photo's embedding: the diffusion prior, and the baselines it has to beat."""

from lorasynth.prior.baselines import BASELINES, KernelPrior, MeanPrior, NearestPrior, RegressionPrior, RidgePrior
from lorasynth.prior.conditioning import CONDITIONING
from lorasynth.prior.denoiser import Denoiser
from lorasynth.prior.diffusion import DiffusionPrior
from lorasynth.prior.training import PriorConfig, fit_prior

__all__ = [
    "BASELINES", "CONDITIONING", "Denoiser", "DiffusionPrior", "KernelPrior", "MeanPrior", "NearestPrior", "PriorConfig",
    "RegressionPrior", "RidgePrior", "fit_prior",
]  # fmt: skip
