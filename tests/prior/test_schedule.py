"""The prior's sampler equals diffusers' bit for bit, so that a model's LoRAs are the same bytes as before."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from lorasynth.prior.schedule import CosineDDIM

COUNTS = [count for count in range(1, 1001) if 1000 % count == 0]


def theirs(says):
    noise = says == "epsilon"
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type=says, rescale_betas_zero_snr=not noise,
        timestep_spacing="trailing", clip_sample=noise, clip_sample_range=3.0,
    )  # fmt: skip


@pytest.mark.parametrize("says", ["v_prediction", "sample", "epsilon"])
def test_schedule_equals_diffusers(says):
    ours, their = CosineDDIM(says), theirs(says)
    x, noise, t = torch.randn(5, 7), torch.randn(5, 7), torch.tensor([0, 3, 500, 998, 999])
    assert torch.equal(ours.alphas_cumprod, their.alphas_cumprod)
    assert torch.equal(ours.add_noise(x, noise, t), their.add_noise(x, noise, t))
    assert torch.equal(ours.velocity(x, noise, t), their.get_velocity(x, noise, t))


@pytest.mark.parametrize("says", ["v_prediction", "sample", "epsilon"])
def test_every_step_equals_diffusers(says):
    ours, their = CosineDDIM(says), theirs(says)
    g = torch.Generator().manual_seed(0)
    for count in COUNTS:
        their.set_timesteps(count)
        assert torch.equal(ours.timesteps(count), their.timesteps)
        x = y = 10 * torch.randn(3, 7, generator=g)
        for t, before in pairwise([*their.timesteps.tolist(), -1]):
            predicted = torch.randn(3, 7, generator=g)
            x = ours.step(predicted, t, before, x)
            y = their.step(predicted, t, y, return_dict=False)[0]
        assert torch.equal(x.nan_to_num(), y.nan_to_num()), count
        assert not x.isnan().any() or says == "sample"


@pytest.mark.parametrize("count", [100, 333, 501, 600, 1000])
def test_exact_denoiser_gives_the_spread_of_the_data(count):
    """Of numbers with a standard deviation of 0.3, whose best prediction is known, and for any number of steps."""
    schedule, spread, x = CosineDDIM(), 0.3, torch.ones(1, 1)
    for t, before in pairwise([*schedule.timesteps(count).tolist(), -1]):
        alpha = schedule.alphas_cumprod[t]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        clean = signal * spread**2 / (alpha * spread**2 + 1 - alpha) * x
        x = schedule.step(signal * (x - signal * clean) / noise - noise * clean, t, before, x)
    assert x.item() == pytest.approx(spread, abs=0.02)
