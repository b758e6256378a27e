"""Priors, and the VAE with them, trained through the base model: the LoRA they make must make it predict the person.

A zoo teaches where LoRAs lie, at the price of one fine-tuning a person; and the squared error between weights, by which it is
learned from, weighs a direction of LoRA space by how far LoRAs spread along it, not by what it does to a picture. From then on
a person to learn from needs photos and no LoRA: what the base predicts with the LoRA made for them says what is wrong with it.
The gradient runs through the frozen base, the LoRA, the canonical form, the VAE's decoder and every step of the prior's sampler,
as reward fine-tuning does it for pictures (DRaFT, Clark et al., ICLR 2024). Goes beyond the paper, whose prior ends with the
v-loss.

Two things are asked of the base: that it denoises the person's photo (its own loss), and that a critic takes what it predicts for
the person. The first alone hardly sees identity, which is a small part of a picture's error.

The critic first looks at predictions from noisy photos, which is quick, and then at predictions on the way of the sampler itself,
which is what a user gets: a LoRA that does well from photos need not draw well, and one that is trained on photos for long, or
with more freedom, learns to please the critic there and draws worse (dev/LOG.md).
"""

from lorasynth.refining.config import EndToEndConfig, RefineConfig
from lorasynth.refining.critic import latent_net, train_critic
from lorasynth.refining.loss import CRITIC_PHOTOS, Judge
from lorasynth.refining.training import end_to_end, refine

__all__ = [
    "CRITIC_PHOTOS", "EndToEndConfig", "Judge", "RefineConfig", "end_to_end", "latent_net", "refine", "train_critic",
]  # fmt: skip
