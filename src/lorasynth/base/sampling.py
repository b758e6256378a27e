"""What a base is asked for, with LoRAs or without: its own loss, and the way from noise to latents."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.base.base import Base, Prompts
from lorasynth.base.schedule import Level


def denoising_loss(
    base: Base,
    x: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    level: Level,
    prompts: Prompts,
    mask: Float[Tensor, "B 1 h w"] | None = None,
) -> Float[Tensor, " B"]:
    """The base's own loss of each latent: the mean squared error of what its network is trained to answer.

    Args:
        base: with the LoRAs that are attached to it.
        x: clean latents.
        noise: normal.
        level: how much of it each gets.
        prompts: of each.
        mask: 1 where the loss looks, 0 where it does not; the mean is over what it looks at.
    """
    schedule = base.schedule
    answer = base.predict(schedule.noisy(x, noise, level), level, prompts)
    return masked_error(answer, schedule.target(x, noise, level), mask)


def masked_error(
    answer: Float[Tensor, "B C h w"], wanted: Float[Tensor, "B C h w"], mask: Float[Tensor, "B 1 h w"] | None
) -> Float[Tensor, " B"]:
    """The mean squared error of each answer, where the mask is 1. None looks everywhere, 0 nowhere."""
    error = F.mse_loss(answer, wanted, reduction="none")
    if mask is None:
        return error.mean((1, 2, 3))
    return (error.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1e-6)


_USUAL_GUIDANCE = {"sd15": 7.5, "sd2": 7.5, "sdxl": 5.0, "sd3": 7.0, "flux": 3.5, "auraflow": 3.5}
"""Of diffusers' pipelines, where nobody says."""


def usual_guidance(base: Base) -> float:
    """The guidance scale that a family's pictures are drawn with where nobody says; that of drawn worlds is 2."""
    return _USUAL_GUIDANCE.get(base.family, 2.0)


def guidance_of(base: Base, asked: float | None) -> float:
    """The guidance scale that was asked for, 0 too, or the base's usual one for None."""
    return usual_guidance(base) if asked is None else asked


@torch.no_grad()
def sample(
    base: Base,
    noise: Float[Tensor, "B C h w"],
    prompts: Prompts,
    *,
    num_inference_steps: int = 20,
    guidance_scale: float = 1.0,
    num_adapters: int = 1,
) -> Float[Tensor, "B C h w"]:
    """From noise to latents by DDIM or, for flow matching, Euler's method: diffusers' pictures for the same noise.

    Args:
        base: with the LoRAs that are attached to it.
        noise: normal.
        prompts: of each latent.
        num_inference_steps: steps.
        guidance_scale: classifier-free guidance (Ho & Salimans, 2022), 1 for none; where the base `embeds_guidance`, told to it.
        num_adapters: N LoRAs that share the batch equally, one after the other.
    """
    schedule, n, guided = base.schedule, num_adapters, guidance_scale != 1 and not base.embeds_guidance
    if base.embeds_guidance:
        prompts = Prompts(prompts.tensors | {"guidance": torch.full((len(noise),), guidance_scale)})

    def doubled(of: Tensor, other: Tensor) -> Tensor:
        """Each adapter's rows, then as many rows of the other."""
        return torch.cat([of.unflatten(0, (n, -1)), other.unflatten(0, (n, -1))], 1).flatten(0, 1)

    if guided:
        empty = base.unconditional(len(noise)).tensors
        prompts = Prompts({name: doubled(x, empty[name]) for name, x in prompts.tensors.items()})
    x = noise
    for level, after in schedule.steps(num_inference_steps):
        # 1. Predict, with and without the text where guided.
        answer = base.predict(doubled(x, x) if guided else x, level.expand(len(prompts)), prompts)
        if guided:
            with_text, without = answer.unflatten(0, (n, 2, -1)).unbind(1)
            answer = (without + guidance_scale * (with_text - without)).flatten(0, 1)
        # 2. Step to the next level.
        x = schedule.step(x, answer, level, after)
    return x
