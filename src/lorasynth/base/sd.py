"""Stable Diffusion 1.x and 2.x: a UNet and one CLIP text encoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasynth.base.base import Prompts
from lorasynth.base.pipeline import PipelineBase
from lorasynth.errors import ModelError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StableDiffusion(PipelineBase):
    """A `StableDiffusionPipeline`."""

    def __post_init__(self) -> None:
        """Refuse a UNet that is told a guidance scale: what was distilled has no denoising loss to fine-tune on."""
        if self.pipe.unet.config.time_cond_proj_dim is not None:
            raise ModelError(
                f"{self.name}: expected a model that was not distilled, got a UNet with time_cond_proj_dim, as latent "
                "consistency models have; give the model that it was made from"
            )
        super().__post_init__()
        if torch.get_default_device().type == "cuda":
            self.pipe.unet.to(memory_format=torch.channels_last)

    @classmethod
    def usual_size(cls, pipe: Any) -> int:
        """Pixels a side of the pictures that a pipeline was trained on."""
        size = pipe.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * int(pipe.vae_scale_factor)

    @property
    def family(self) -> str:
        """SD 1 or 2: from version 2 on, the UNet's transformers begin and end with linear layers."""
        return "sd2" if self.pipe.unet.config.use_linear_projection else "sd15"

    def _encode_captions(self, captions: list[str]) -> Prompts:
        states, _ = self.pipe.encode_prompt(captions, torch.get_default_device(), 1, False)
        return Prompts({"encoder_hidden_states": states})

    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        answer: Tensor = self.pipe.unet(x_t, time, return_dict=False, **prompts)[0]
        return answer
