"""Priors, and the VAE with them, trained through the base model: the LoRA they make must make it predict the person.

A zoo teaches where LoRAs lie, at the price of one fine-tuning a person. It is learned from by the squared error between
weights. That error weighs a direction of LoRA space by how far LoRAs spread along it, not by what it does to a picture.

From then on a person to learn from needs photos and no LoRA. The base predicts with the LoRA made for them, and its error says
what is wrong with the LoRA. The gradient runs through the frozen base, the LoRA, the canonical form, the VAE's decoder and every
step of the prior's sampler. Reward fine-tuning does the same for pictures (DRaFT, Clark et al., ICLR 2024). This goes beyond the
paper, whose prior ends with the v-loss.

Two things are asked of the base. It has to denoise the person's photo, by its own loss. And a critic has to take the prediction
for the person. The first alone hardly sees identity, which is a small part of a picture's error.

The critic first looks at predictions from noisy photos, which is quick. Then it looks at predictions on the way of the sampler
itself, which is what a user gets. A LoRA that does well from photos need not draw well. One that is trained on photos for long
learns to please the critic there and draws worse (dev/LOG.md).
"""

from lorasynth.refining.config import EndToEndConfig, RefineConfig
from lorasynth.refining.critic import latent_net, train_critic
from lorasynth.refining.loss import Judge
from lorasynth.refining.training import end_to_end, refine

__all__ = ["EndToEndConfig", "Judge", "RefineConfig", "end_to_end", "latent_net", "refine", "train_critic"]
