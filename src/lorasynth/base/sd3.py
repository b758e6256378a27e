"""Stable Diffusion 3: a transformer with text and image in one attention, flow matching, three text encoders."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasynth.base.base import Prompts
from lorasynth.base.pipeline import PipelineBase, dynamic_shift
from lorasynth.lora.presets import JOINT_ATTENTION


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StableDiffusion3(PipelineBase):
    """A `StableDiffusion3Pipeline`."""

    target_modules: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    captions_at_once: ClassVar[int] = 16
    picture_multiple: ClassVar[int] = 16

    @property
    def family(self) -> str:
        """The name of the family."""
        return "sd3"

    def _encode_captions(self, captions: list[str]) -> Prompts:
        states, _, pooled, _ = self.pipe.encode_prompt(
            captions, captions, captions, device=torch.get_default_device(), do_classifier_free_guidance=False
        )
        return Prompts({"encoder_hidden_states": states, "pooled_projections": pooled})

    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        answer: Tensor = self.pipe.transformer(hidden_states=x_t, timestep=time, return_dict=False, **prompts)[0]
        return answer

    def _positions(self) -> int:
        side: int = self.pipe.transformer.config.pos_embed_max_size
        return side

    def _set_timesteps(self, scheduler: Any, steps: int) -> None:
        _, height, width = self.latent_shape
        patch = self.pipe.transformer.config.patch_size
        scheduler.set_timesteps(steps, mu=dynamic_shift(scheduler, (height // patch) * (width // patch), 1.16))
