"""DDIM on a cosine schedule, number for number as diffusers' ``DDIMScheduler`` computes it, without the seconds of its import."""

import math
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["v_prediction", "sample", "epsilon"]
"""What the denoiser says, in diffusers' words: v, the clean x, or the noise."""
NUM_TRAIN_TIMESTEPS = 1_000
_CLIP = 3.0


class CosineDDIM:
    """A cosine schedule (Nichol & Dhariwal, ICML 2021) with zero terminal SNR, and DDIM's steps on it (Song et al., ICLR 2021).

    Predicting noise says nothing about x where there is no signal. So that schedule keeps the little that the cosine has left
    at its end. x is clipped at three standard deviations: without that, its first steps are off by a factor of 20,000.

    Equal to ``DDIMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", rescale_betas_zero_snr=True)``, bit
    for bit, for numbers of steps that divide 1,000: a test holds it against that. For others diffusers takes
    ``t - 1000 // count`` for the next timestep, which is another one. 501 steps then leave nearly twice the spread.
    """

    def __init__(self, prediction_type: PredictionType = "v_prediction"):
        """Compute the schedule, on the default device.

        Args:
            prediction_type: what the denoiser says.
        """
        self.prediction_type = prediction_type
        betas = torch.tensor(_betas(), dtype=torch.float32)
        if prediction_type != "epsilon":
            betas = _without_signal_at_the_end(betas)
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)

    def timesteps(self, count: int) -> Int[Tensor, " count"]:
        """The timesteps of so many steps, from noise to data ("trailing" spacing: Lin et al., WACV 2024), on the CPU."""
        every = NUM_TRAIN_TIMESTEPS / count
        return torch.from_numpy(np.round(np.arange(NUM_TRAIN_TIMESTEPS, 0, -every)).astype(np.int64) - 1)

    def add_noise(
        self, x: Float[Tensor, "B Z"], noise: Float[Tensor, "B Z"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B Z"]:
        """``sqrt(a_t) x + sqrt(1 - a_t) noise``."""
        signal, rest = self._signal_and_noise(t)
        return signal * x + rest * noise

    def velocity(
        self, x: Float[Tensor, "B Z"], noise: Float[Tensor, "B Z"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B Z"]:
        """``v = sqrt(a_t) noise - sqrt(1 - a_t) x`` (Salimans & Ho, ICLR 2022)."""
        signal, rest = self._signal_and_noise(t)
        return signal * noise - rest * x

    def _signal_and_noise(self, t: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[t.to(self.alphas_cumprod.device)]
        return (alpha**0.5)[:, None], ((1 - alpha) ** 0.5)[:, None]

    def step(
        self, predicted: Float[Tensor, "B Z"], t: int, before: int, x_t: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B Z"]:
        """A step from timestep t to the one before it, without noise (eta = 0). -1 is the data."""
        alpha = self.alphas_cumprod[t]
        alpha_before = self.alphas_cumprod[before] if before >= 0 else torch.tensor(1.0)
        beta = 1 - alpha
        # 1. What was predicted, as the clean x and as the noise.
        if self.prediction_type == "epsilon":
            x = ((x_t - beta**0.5 * predicted) / alpha**0.5).clamp(-_CLIP, _CLIP)
            noise = predicted
        elif self.prediction_type == "sample":
            x = predicted
            noise = (x_t - alpha**0.5 * x) / beta**0.5
        else:
            x = (alpha**0.5) * x_t - (beta**0.5) * predicted
            noise = (alpha**0.5) * predicted + (beta**0.5) * x_t
        # 2. The two at the noise level before.
        return alpha_before**0.5 * x + (1 - alpha_before) ** 0.5 * noise


@cache
def _betas() -> tuple[float, ...]:
    """The variance that each step of the cosine schedule adds, at most 0.999 (Nichol & Dhariwal, equation 17)."""
    parts = [step / NUM_TRAIN_TIMESTEPS for step in range(NUM_TRAIN_TIMESTEPS + 1)]
    left = [math.cos((part + 0.008) / 1.008 * math.pi / 2) ** 2 for part in parts]
    return tuple(min(1 - after / before, 0.999) for before, after in pairwise(left))


def _without_signal_at_the_end(betas: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """The schedule shifted and scaled so that nothing of x is left at its last step (Lin et al., WACV 2024, Algorithm 1)."""
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * (first / (first - last))
    alphas_cumprod = roots**2
    return 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
