"""What is asked of the base model through people's LoRAs: to denoise their photos, and to predict nobody else."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lorasynth.lora.bank import attached
from lorasynth.lora.layout import Layout
from lorasynth.refining.config import RefineConfig
from lorasynth.training import Share
from lorasynth.worlds.world import Photos, World

CRITIC_PHOTOS = 3
"""Photos of a person whose embeddings by the critic are averaged: who the prediction shall be taken for."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A frozen base and a critic: how far LoRAs are from drawing the people they are for.

    The critic takes latents (N, C, h, w) to unit embeddings (N, D), and is neither of the recognisers that score.
    """

    world: World
    layout: Layout
    critic: nn.Module
    config: RefineConfig

    def loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """v-loss plus ``identity_weight`` times the identity loss, as the settings' ``states`` say.

        Args:
            vectors: a LoRA for each of N people, with gradients.
            photos: of these people.
            share: draws noise and timesteps.
        """
        of_states = self.drawing_loss if self.config.states == "drawn" else self.photo_loss
        return of_states(vectors, photos, share)

    def photo_loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """v-loss and identity loss of what the base predicts for the first photo of each person, through the people's LoRAs."""
        config, unet, scheduler = self.config, self.world.pipe.unet, self.world.pipe.scheduler
        latents = photos.latents[:, 0]
        noise = share.normal(*latents.shape)
        part = config.noise_from + (1 - config.noise_from) * share.stratified(len(latents))
        timesteps = (part * scheduler.config.num_train_timesteps).long()
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with attached(unet, self.layout, vectors):
            v = unet(noisy, timesteps, encoder_hidden_states=photos.text[:, 0], return_dict=False)[0]
        identity = self._identity_loss(_clean(scheduler, noisy, v, timesteps), photos)
        return F.mse_loss(v, scheduler.get_velocity(latents, noise, timesteps)) + config.identity_weight * identity

    def drawing_loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """v-loss as in `photo_loss`, at all noise levels; identity loss of what the base predicts on its own way to a picture.

        From noise, the sampler takes some of its steps with each person's LoRA, without gradients; what is predicted in the next
        one is shown to the critic (as ReFL does with its reward, Xu et al., NeurIPS 2023).
        """
        config, unet, scheduler = self.config, self.world.pipe.unet, self.world.pipe.scheduler
        latents, text = photos.latents[:, 0], photos.text[:, 0]
        x = share.normal(*latents.shape)
        scheduler.set_timesteps(config.drawing_steps)
        taken = int(torch.randint(1, config.drawing_steps, (1,), generator=share.generator))
        with torch.no_grad(), attached(unet, self.layout, vectors.detach()):
            for t in scheduler.timesteps[:taken]:
                v = unet(x, t, encoder_hidden_states=text, return_dict=False)[0]
                x = scheduler.step(v, t, x, return_dict=False)[0]
        noise = share.normal(*latents.shape)
        timesteps = (share.stratified(len(latents)) * scheduler.config.num_train_timesteps).long()
        drawn_at = scheduler.timesteps[taken].to(x.device).expand(len(x))
        # Of each person, one after the other: the state that was drawn, and the noisy photo.
        rows = torch.stack([x, scheduler.add_noise(latents, noise, timesteps)], 1).flatten(0, 1)
        both = torch.stack([drawn_at, timesteps], 1).flatten()
        with attached(unet, self.layout, vectors):
            v = unet(rows, both, encoder_hidden_states=text.repeat_interleave(2, 0), return_dict=False)[0]
        of_drawn, of_photo = v.unflatten(0, (-1, 2)).unbind(1)
        identity = self._identity_loss(_clean(scheduler, x, of_drawn, drawn_at), photos)
        wanted = scheduler.get_velocity(latents, noise, timesteps)
        return F.mse_loss(of_photo, wanted) + config.identity_weight * identity

    def _identity_loss(self, predicted: Float[Tensor, "N C h w"], photos: Photos) -> Float[Tensor, ""]:
        """1 - cosine, by the critic, of predicted latents to the mean of each person's photos."""
        with torch.no_grad():
            seen = self.critic(photos.latents.flatten(0, 1)).unflatten(0, photos.latents.shape[:2])
            person = F.normalize(seen.mean(1), dim=1)
        return 1 - (self.critic(predicted) * person).sum(1).mean()


def _clean(
    scheduler: Any, noisy: Float[Tensor, "N C h w"], v: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
) -> Float[Tensor, "N C h w"]:
    """The clean latent that a v stands for (Salimans & Ho, ICLR 2022, appendix D)."""
    alpha_bar = scheduler.alphas_cumprod.to(noisy.device)[timesteps][:, None, None, None]
    return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * v
