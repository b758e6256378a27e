"""The loss of people's LoRAs: the base has to denoise their photos with them, and to predict nobody else."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base import Base, Photos, masked_error
from lorasynth.lora.bank import attached
from lorasynth.lora.layout import Layout
from lorasynth.refining.config import RefineConfig
from lorasynth.training import Share


@dataclass(frozen=True, eq=False)
class Judge:
    """A frozen base and a critic: how far LoRAs are from drawing the people they are for.

    The critic takes latents (N, C, h, w) to unit embeddings (N, D), and is neither of the recognisers that score.
    """

    base: Base
    layout: Layout
    critic: nn.Module
    config: RefineConfig

    def loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """The base's loss plus ``identity_weight`` times the identity loss, as the settings' ``states`` say.

        Args:
            vectors: a LoRA for each of N people, with gradients.
            photos: of these people.
            share: draws noise and its levels.
        """
        of_states = self.drawing_loss if self.config.states == "drawn" else self.photo_loss
        return of_states(vectors, photos, share)

    def photo_loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """The base's loss and the identity loss of its predictions of each person's first photo, through the people's LoRAs."""
        config, base, schedule = self.config, self.base, self.base.schedule
        x, prompts = photos.latents[:, 0], photos.states(0)
        noise = share.normal(*x.shape)
        level = schedule.level(config.noise_from + (1 - config.noise_from) * share.stratified(len(x)))
        x_t = schedule.noisy(x, noise, level)
        with attached(base.denoiser, self.layout, vectors):
            answer = base.predict(x_t, level, prompts)
        clean, _ = schedule.read(x_t, answer, level)
        wanted = schedule.target(x, noise, level)
        return _photo_error(answer, wanted, photos) + config.identity_weight * self._identity_loss(clean, photos)

    def drawing_loss(self, vectors: Float[Tensor, "N P"], photos: Photos, share: Share) -> Float[Tensor, ""]:
        """The base's loss as in `photo_loss`, at all noise levels, and the identity loss of a prediction while it draws.

        From noise, the sampler takes some of its steps with each person's LoRA, without gradients. The prediction of the next
        step is shown to the critic, as ReFL does with its reward (Xu et al., NeurIPS 2023).
        """
        config, base, schedule = self.config, self.base, self.base.schedule
        x, prompts = photos.latents[:, 0], photos.states(0)
        # 1. Draw some steps, without gradients.
        drawn, steps = share.normal(*x.shape), list(schedule.steps(config.drawing_steps))
        taken = int(torch.randint(1, config.drawing_steps, (1,), generator=share.generator))
        with torch.no_grad(), attached(base.denoiser, self.layout, vectors.detach()):
            for at, after in steps[:taken]:
                drawn = schedule.step(drawn, base.predict(drawn, at.expand(len(x)), prompts), at, after)
        # 2. Of each person, one after the other: the state that was drawn, and the noisy photo.
        noise = share.normal(*x.shape)
        level, drawn_at = schedule.level(share.stratified(len(x))), steps[taken][0].expand(len(x))
        rows = torch.stack([drawn, schedule.noisy(x, noise, level)], 1).flatten(0, 1)
        # 3. Predict both, with gradients.
        with attached(base.denoiser, self.layout, vectors):
            answer = base.predict(rows, drawn_at.interleaved(level), prompts.map(lambda p: p.repeat_interleave(2, 0)))
        of_drawn, of_photo = answer.unflatten(0, (-1, 2)).unbind(1)
        # 4. Hold the one against the person, the other against the photo.
        clean, _ = schedule.read(drawn, of_drawn, drawn_at)
        wanted = schedule.target(x, noise, level)
        return _photo_error(of_photo, wanted, photos) + config.identity_weight * self._identity_loss(clean, photos)

    def _identity_loss(self, predicted: Float[Tensor, "N C h w"], photos: Photos) -> Float[Tensor, ""]:
        """1 - cosine, by the critic, of predicted latents to the mean of each person's photos.

        The first photo is that whose caption was asked for. Alone, it asks for the pose of the caption, too.
        """
        with torch.no_grad():
            seen = self.critic(photos.latents.flatten(0, 1)).unflatten(0, photos.latents.shape[:2])
            person = F.normalize(seen.mean(1), dim=1)
        return 1 - (self.critic(predicted) * person).sum(1).mean()


def _photo_error(
    answer: Float[Tensor, "N C h w"], wanted: Float[Tensor, "N C h w"], photos: Photos
) -> Float[Tensor, ""]:
    """The mean squared error of answers about each person's first photo, where its mask looks."""
    mask = None if photos.masks is None else photos.masks[:, 0]
    return masked_error(answer, wanted, mask).mean()
