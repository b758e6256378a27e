"""A base around a UNet alone: what a step of fine-tuning needs, without VAE, text encoder and files."""

from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel

from lorasynth.base import Level, Prompts, Schedule
from lorasynth.worlds.base import build_scheduler


@dataclass
class BareBase:
    """As much of a `Base` as its own loss asks for."""

    denoiser: UNet2DConditionModel
    schedule: Schedule = field(default_factory=lambda: Schedule.of(build_scheduler()))

    def predict(self, x_t: torch.Tensor, level: Level, prompts: Prompts) -> torch.Tensor:
        """The UNet's answer."""
        return self.denoiser(x_t, level.time, return_dict=False, **prompts.tensors)[0]


def text(states: torch.Tensor) -> Prompts:
    """A text encoder's states as prompts."""
    return Prompts({"encoder_hidden_states": states})
