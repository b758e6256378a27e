"""Stable Diffusion XL: a UNet, two CLIP text encoders, and numbers that say how large the picture is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lorasynth.base.base import Prompts
from lorasynth.base.sd import StableDiffusion


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StableDiffusionXL(StableDiffusion):
    """A `StableDiffusionXLPipeline`."""

    @property
    def family(self) -> str:
        """The name of the family."""
        return "sdxl"

    def unconditional(self, count: int) -> Prompts:
        """The empty caption, or zeros where the pipeline says so (``force_zeros_for_empty_prompt``)."""
        empty = super().unconditional(count)
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return empty
        zeros = {name: torch.zeros_like(x) for name, x in empty.tensors.items() if name != "time_ids"}
        return Prompts(zeros | {"time_ids": empty.tensors["time_ids"]})

    def _encode_captions(self, captions: list[str]) -> Prompts:
        states, _, pooled, _ = self.pipe.encode_prompt(
            captions, device=torch.get_default_device(), do_classifier_free_guidance=False
        )
        # Micro-conditioning (Podell et al., ICLR 2024, Section 2.2): the picture's size, where it was cropped, the size wanted.
        size = float(self.picture_size)
        time_ids = torch.tensor([[size, size, 0.0, 0.0, size, size]], dtype=states.dtype, device=states.device)
        return Prompts(
            {"encoder_hidden_states": states, "text_embeds": pooled, "time_ids": time_ids.expand(len(states), -1)}
        )

    def _answer(self, x_t: Tensor, time: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        added = {name: prompts[name] for name in ("text_embeds", "time_ids")}
        states = prompts["encoder_hidden_states"]
        answer: Tensor = self.pipe.unet(x_t, time, states, added_cond_kwargs=added, return_dict=False)[0]
        return answer
