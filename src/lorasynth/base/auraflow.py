"""AuraFlow: blocks with text and image in one attention, then single blocks, flow matching, T5 as text encoder."""

from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasynth.base.base import Prompts
from lorasynth.base.pipeline import PipelineBase
from lorasynth.lora.presets import JOINT_ATTENTION


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AuraFlow(PipelineBase):
    """An `AuraFlowPipeline`."""

    target_modules: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    captions_at_once: ClassVar[int] = 16
    picture_multiple: ClassVar[int] = 16

    @property
    def family(self) -> str:
        """The name of the family."""
        return "auraflow"

    @classmethod
    def usual_size(cls, pipe: Any) -> int:
        """Pixels a side that diffusers draws: the pipeline has no `default_sample_size`."""
        size: int = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        return size

    def _encode_captions(self, captions: list[str]) -> Prompts:
        states, *_ = self.pipe.encode_prompt(
            captions, do_classifier_free_guidance=False, device=torch.get_default_device()
        )
        return Prompts({"encoder_hidden_states": states})

    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        # NOTE: this transformer takes time from 0 to 1, and multiplies it by 1000 itself.
        answer: Tensor = self.pipe.transformer(x_t, timestep=time / 1000, return_dict=False, **prompts)[0]
        return answer

    def _positions(self) -> int:
        return isqrt(self.pipe.transformer.config.pos_embed_max_size)
