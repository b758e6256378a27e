"""The noise of a diffusion model, ``x_t = alpha x + sigma noise``, and what a network's answer says about x and the noise.

One algebra for DDPM models that predict noise, x or v, and for flow matching (alpha = 1 - sigma; Lipman et al., ICLR 2023). The
conversions are those of Salimans & Ho, ICLR 2022, Appendix D. Tables and the steps of a sampler come from diffusers' schedulers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import ModelError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
SetTimesteps = Callable[[Any, int], None]
"""(a flow matching scheduler, steps) -> None: sets the scheduler's sigmas, as the model's own pipeline does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """How noisy each of B pictures is."""

    alpha: Float[Tensor, " B"]
    sigma: Float[Tensor, " B"]
    time: Float[Tensor, " B"] | Int[Tensor, " B"]  # what the network is told

    def map(self, change: Callable[[Tensor], Tensor]) -> "Level":
        """The levels of other rows."""
        return Level(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def expand(self, rows: int) -> "Level":
        """One level for all of ``rows`` pictures."""
        return self.map(lambda x: x.expand(rows))

    def interleaved(self, other: "Level") -> "Level":
        """Row by row, a level of these and one of the other's: 2 B levels."""
        pairs = {f.name: torch.stack([getattr(self, f.name), getattr(other, f.name)], 1) for f in fields(self)}
        return Level(**{name: pair.flatten() for name, pair in pairs.items()})

    def of(self, x: Float[Tensor, "B *d"]) -> tuple[Tensor, Tensor]:
        """Alpha and sigma, shaped to be multiplied with x."""
        shape = (-1, *[1] * (x.dim() - 1))
        return self.alpha.to(x.dtype).view(shape), self.sigma.to(x.dtype).view(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """T noise levels of training, from the least noise to the most. What the network predicts. The steps of its sampler."""

    alpha: Float[Tensor, " T"]
    sigma: Float[Tensor, " T"]
    time: Float[Tensor, " T"] | Int[Tensor, " T"]
    prediction: Prediction
    scheduler: Any  # diffusers' own, for the steps of a sampler
    set_timesteps: SetTimesteps

    def __repr__(self) -> str:
        """In a line, without its numbers."""
        return f"Schedule({type(self.scheduler).__name__}, {self.prediction!r}, {len(self.time)} levels)"

    @classmethod
    def of(cls, scheduler: Any, set_timesteps: SetTimesteps | None = None) -> "Schedule":
        """The schedule of a diffusers scheduler: any with DDPM's table, or flow matching's.

        Args:
            scheduler: DDIM, PNDM, Euler, … or FlowMatchEulerDiscreteScheduler; not changed.
            set_timesteps: of flow matching, where the pipeline gives more than a number of steps.

        Raises:
            ModelError: a scheduler of another kind, or one whose network would have to tell noise from nothing else.
        """
        device, fresh = torch.get_default_device(), type(scheduler).from_config(scheduler.config)
        if hasattr(scheduler, "alphas_cumprod"):
            prediction, alpha2 = scheduler.config.prediction_type, fresh.alphas_cumprod.to(device)
            time: Tensor = torch.arange(len(alpha2), device=device)
            alpha, sigma = alpha2.sqrt(), (1 - alpha2).sqrt()
        elif type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
            prediction, sigma = "flow", fresh.sigmas.to(device).flip(0)
            alpha, time = 1 - sigma, sigma * scheduler.config.num_train_timesteps
        else:
            raise ModelError(
                "expected a scheduler with DDPM's alphas_cumprod, or FlowMatchEulerDiscreteScheduler, got "
                f"{type(scheduler).__name__}; give the pipeline one of those"
            )
        if prediction not in get_args(Prediction):
            raise ModelError(f"expected a prediction_type among {get_args(Prediction)}, got {prediction!r}")
        if prediction == "epsilon" and not alpha.all():
            raise ModelError(
                "expected v_prediction of a scheduler with zero terminal SNR (rescale_betas_zero_snr), got epsilon, which says "
                "nothing about x where there is noise alone; correct the scheduler's configuration"
            )
        return cls(
            alpha=alpha, sigma=sigma, time=time, prediction=prediction, scheduler=fresh,
            set_timesteps=set_timesteps or (lambda own, steps: own.set_timesteps(steps)),
        )  # fmt: skip

    def level(self, part: Float[Tensor, " B"]) -> Level:
        """Noise levels of training by their places in the table, from 0 (least noise) to 1."""
        rows = (part * len(self.alpha)).long().clamp(max=len(self.alpha) - 1)
        return self.row(rows)

    def row(self, rows: Int[Tensor, " B"]) -> Level:
        """Noise levels by their numbers in the table."""
        return Level(alpha=self.alpha[rows], sigma=self.sigma[rows], time=self.time[rows])

    def noisy(self, x: Float[Tensor, "B *d"], noise: Float[Tensor, "B *d"], level: Level) -> Float[Tensor, "B *d"]:
        """``x_t = alpha x + sigma noise``."""
        alpha, sigma = level.of(x)
        return alpha * x + sigma * noise

    def target(self, x: Float[Tensor, "B *d"], noise: Float[Tensor, "B *d"], level: Level) -> Float[Tensor, "B *d"]:
        """What the network is trained to answer."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x
        if self.prediction == "flow":
            return noise - x
        alpha, sigma = level.of(x)
        return alpha * noise - sigma * x

    def read(
        self, x_t: Float[Tensor, "B *d"], answer: Float[Tensor, "B *d"], level: Level
    ) -> tuple[Float[Tensor, "B *d"], Float[Tensor, "B *d"]]:
        """The clean x and the noise that a network's answer means."""
        alpha, sigma = level.of(x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * answer) / alpha, answer
        if self.prediction == "sample":
            return answer, (x_t - alpha * answer) / sigma
        if self.prediction == "flow":
            return x_t - sigma * answer, x_t + alpha * answer
        return alpha * x_t - sigma * answer, alpha * answer + sigma * x_t

    def steps(self, count: int) -> Iterator[tuple[Level, Level]]:
        """Where a sampler of so many steps looks, and where each look leads: pairs of levels of one row each.

        As diffusers' own: DDIM's timesteps by the configuration's spacing. Flow matching's sigmas with its shift.
        """
        if self.prediction == "flow":
            self.set_timesteps(self.scheduler, count)
            sigma = self.scheduler.sigmas.to(self.sigma)
            time = self.scheduler.config.num_train_timesteps * sigma
            levels = [Level(alpha=1 - s, sigma=s, time=t) for s, t in zip(sigma.split(1), time.split(1), strict=True)]
            yield from pairwise(levels)
        else:
            from diffusers import DDIMScheduler

            ddim, last = DDIMScheduler.from_config(self.scheduler.config), self._last()
            ddim.set_timesteps(count)
            for t in ddim.timesteps.tolist():
                after = t - len(self.alpha) // count
                yield self._one(t), self._one(after) if after >= 0 else last

    def step(
        self, x_t: Float[Tensor, "B *d"], answer: Float[Tensor, "B *d"], level: Level, after: Level
    ) -> Float[Tensor, "B *d"]:
        """From one level to the next by DDIM (Song et al., ICLR 2021), which for flow matching is Euler's method."""
        x, noise = self.read(x_t, answer, level)
        return self.noisy(x, noise, after)

    def _one(self, row: int) -> Level:
        return self.row(torch.tensor([row], device=self.alpha.device))

    def _last(self) -> Level:
        """Where a sampler ends: no noise, or (``set_alpha_to_one=False``, Stable Diffusion 1.5) the least of the table."""
        alpha2 = torch.as_tensor(getattr(self.scheduler, "final_alpha_cumprod", 1.0)).to(self.alpha).view(1)
        return Level(alpha=alpha2.sqrt(), sigma=(1 - alpha2).sqrt(), time=self.time[:1])
