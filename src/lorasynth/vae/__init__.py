"""Canonical vector <-> latent: the weight VAE (Section 3.3)."""

from lorasynth.vae.model import LoRAVAE
from lorasynth.vae.training import VAEConfig, fit_vae, zoo_loss

__all__ = ["LoRAVAE", "VAEConfig", "fit_vae", "zoo_loss"]
