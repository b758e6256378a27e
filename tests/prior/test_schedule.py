"""The prior's sampler equals diffusers' bit for bit, so that a model's LoRAs are the same bytes as before."""

import pytest
import torch
from diffusers import DDIMScheduler

from lorasynth.prior.schedule import CosineDDIM

COUNTS = [*range(1, 61), 100, 333, 500, 999, 1000]


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
@pytest.mark.slow
def test_every_step_equals_diffusers(says):
    ours, their = CosineDDIM(says), theirs(says)
    g = torch.Generator().manual_seed(0)
    for count in COUNTS:
        their.set_timesteps(count)
        assert torch.equal(ours.timesteps(count), their.timesteps)
        x = y = 10 * torch.randn(3, 7, generator=g)
        for t in their.timesteps:
            predicted = torch.randn(3, 7, generator=g)
            x = ours.step(predicted, t, x, count)
            y = their.step(predicted, t, y, return_dict=False)[0]
        assert torch.equal(x.nan_to_num(), y.nan_to_num()), count
        assert not x.isnan().any() or says == "sample"
