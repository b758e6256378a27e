"""FLUX.1: a transformer over 2 x 2 patches of latents, flow matching, CLIP and T5 as text encoders."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasynth.base.base import Prompts
from lorasynth.base.pipeline import PipelineBase, dynamic_shift

TRAINING_GUIDANCE = 1.0
"""What the distilled transformer is told while LoRAs are trained, as in diffusers' training script for it."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Flux(PipelineBase):
    """A `FluxPipeline`: dev, which is told the guidance scale, or schnell."""

    captions_at_once: ClassVar[int] = 16
    picture_multiple: ClassVar[int] = 16

    @property
    def family(self) -> str:
        """The name of the family."""
        return "flux"

    @property
    def embeds_guidance(self) -> bool:
        """Of dev, not of schnell."""
        return bool(self.pipe.transformer.config.guidance_embeds)

    def _encode_captions(self, captions: list[str]) -> Prompts:
        states, pooled, _ = self.pipe.encode_prompt(captions, captions, device=torch.get_default_device())
        tensors = {"encoder_hidden_states": states, "pooled_projections": pooled}
        if self.embeds_guidance:
            tensors["guidance"] = torch.full((len(states),), TRAINING_GUIDANCE, device=states.device)
        return Prompts(tensors)

    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        n, channels, height, width = x_t.shape
        ids = self.pipe._prepare_latent_image_ids(n, height // 2, width // 2, x_t.device, x_t.dtype)
        text_ids = torch.zeros(prompts["encoder_hidden_states"].shape[1], 3, device=x_t.device, dtype=x_t.dtype)
        # NOTE: this transformer takes time from 0 to 1, and multiplies it by 1000 itself.
        answer = self.pipe.transformer(
            hidden_states=self.pipe._pack_latents(x_t, n, channels, height, width), timestep=time / 1000,
            img_ids=ids, txt_ids=text_ids, return_dict=False, **prompts,
        )[0]  # fmt: skip
        factor = self.pipe.vae_scale_factor
        unpacked: Tensor = self.pipe._unpack_latents(answer, height * factor, width * factor, factor)
        return unpacked

    def _channels(self) -> int:
        return super()._channels() // 4

    def _set_timesteps(self, scheduler: Any, steps: int) -> None:
        _, height, width = self.latent_shape
        mu = dynamic_shift(scheduler, (height // 2) * (width // 2), 1.15)
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / steps, steps, device="cpu").tolist(), mu=mu)
