"""One algebra for four kinds of networks, held against diffusers' schedulers."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from lorasynth.base.schedule import Schedule
from lorasynth.errors import ModelError
from lorasynth.worlds.base import build_scheduler

from ..tiny_pipelines import ddim

DDPM = ("epsilon", "v_prediction", "sample")


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 4, 3, 3, generator=generator)


def flow(**settings):
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | settings)


@pytest.mark.parametrize("prediction", DDPM)
def test_noisy_and_target_are_diffusers_own(rows, prediction):
    scheduler = ddim(prediction_type=prediction)
    x, noise = rows
    t = torch.tensor([0, 1, 333, 998, 999])
    schedule = Schedule.of(scheduler)
    level = schedule.row(t)
    assert torch.equal(level.time, t)
    torch.testing.assert_close(schedule.noisy(x, noise, level), scheduler.add_noise(x, noise, t), rtol=0, atol=0)
    wanted = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, t)}[prediction]
    torch.testing.assert_close(schedule.target(x, noise, level), wanted, rtol=0, atol=0)


def test_flow_is_noised_as_by_diffusers(rows):
    scheduler = flow()
    x, noise = rows
    schedule = Schedule.of(scheduler)
    level = schedule.row(torch.tensor([0, 1, 333, 998, 999]))
    theirs = scheduler.scale_noise(x, level.time, noise)
    torch.testing.assert_close(schedule.noisy(x, noise, level), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", [*DDPM, "flow"])
def test_read_inverts_target(rows, prediction):
    scheduler = flow() if prediction == "flow" else ddim(prediction_type=prediction)
    schedule, (x, noise) = Schedule.of(scheduler), rows.double()
    level = schedule.level(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])).map(lambda t: t.double())
    clean, found = schedule.read(schedule.noisy(x, noise, level), schedule.target(x, noise, level), level)
    torch.testing.assert_close(clean, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", DDPM)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("count", [1, 3, 7, 20])
@pytest.mark.parametrize("to_one", [True, False])
def test_steps_are_ddims(rows, prediction, spacing, count, to_one):
    scheduler = ddim(prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=to_one)
    schedule, ours = Schedule.of(scheduler), rows[0]
    theirs, answer = ours, rows[1]
    scheduler.set_timesteps(count)
    steps = list(schedule.steps(count))
    assert [int(at.time) for at, _ in steps] == scheduler.timesteps.tolist()
    for (at, after), t in zip(steps, scheduler.timesteps, strict=True):
        ours = schedule.step(ours, answer, at, after)
        theirs = scheduler.step(answer, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_karras_sigmas": True}, {"use_dynamic_shifting": True, "shift": 1.0}])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_steps_of_flow_are_eulers(rows, settings, count):
    scheduler = flow(**settings)
    more = {"mu": 0.9} if settings.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(count, **more)
    schedule = Schedule.of(scheduler, lambda own, steps: own.set_timesteps(steps, **more))
    ours = theirs = rows[0]
    for (at, after), t in zip(schedule.steps(count), scheduler.timesteps, strict=True):
        torch.testing.assert_close(at.time[0], t)
        ours = schedule.step(ours, rows[1], at, after)
        theirs = scheduler.step(rows[1], t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, of numpy 2
def test_sdxl_euler_steps_are_ddims(rows):
    """Euler's method in sigma space is DDIM: x of one is x / alpha of the other."""
    table = {k: ddim().config[k] for k in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    euler = EulerDiscreteScheduler(**table, timestep_spacing="leading", prediction_type="epsilon")
    schedule, ours = Schedule.of(euler), rows[0]
    euler.set_timesteps(5)
    theirs = ours * euler.init_noise_sigma
    for (at, after), t in zip(schedule.steps(5), euler.timesteps, strict=True):
        assert at.time.item() == t
        ours = schedule.step(ours, rows[1], at, after)
        theirs = euler.step(rows[1], t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_used_scheduler_gives_the_same_schedule():
    used, fresh = flow(), flow()
    used.set_timesteps(3)
    assert torch.equal(Schedule.of(used).sigma, Schedule.of(fresh).sigma)


def test_pndm_has_the_table_and_final_level_of_ddim():
    config = ddim().config
    pndm = PNDMScheduler(**{k: config[k] for k in ("beta_start", "beta_end", "beta_schedule", "steps_offset")})
    ours, theirs = Schedule.of(pndm), Schedule.of(ddim())
    assert torch.equal(ours.alpha, theirs.alpha)
    assert [float(b.alpha) for _, b in ours.steps(4)] == [float(b.alpha) for _, b in theirs.steps(4)]


def test_level_takes_the_schedule_by_its_part():
    schedule = Schedule.of(build_scheduler())
    assert schedule.level(torch.tensor([0.0, 0.4999, 0.5, 0.9999, 1.0])).time.tolist() == [0, 499, 500, 999, 999]


def test_scheduler_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"expected a scheduler with DDPM's alphas_cumprod.*got EDMEulerScheduler"):
        Schedule.of(EDMEulerScheduler())


def test_epsilon_without_signal_is_refused():
    with pytest.raises(ModelError, match="expected v_prediction of a scheduler with zero terminal SNR"):
        Schedule.of(DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="epsilon"))
