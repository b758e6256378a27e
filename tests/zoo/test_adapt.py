"""Fine-tuning many people at once."""

from dataclasses import replace

import pytest
import torch

from lorasynth.base import denoising_loss
from lorasynth.evaluate.zoo_quality import repeatability
from lorasynth.lora.bank import attached
from lorasynth.zoo.adapt import AdaptConfig, adapt, draw_samples
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.initialisation import learn_init, random_init


def _train(tiny, rows, **settings):
    base, layout, photos = tiny
    config = AdaptConfig(steps=4, batch_size=4, **settings)
    return adapt(base, layout, random_init(layout, 0), photos.subjects(rows), config)


@pytest.mark.parametrize("lora_A", ["each", "frozen"])
@pytest.mark.slow
def test_person_trained_in_company_is_the_person_trained_alone(tiny, lora_A):
    together = _train(tiny, [0, 1, 2], lora_A=lora_A)
    alone = _train(tiny, [1], lora_A=lora_A)
    assert (together[1] - alone[0]).abs().max() < 2e-4 * alone.abs().max() + 1e-6


def test_different_people_get_different_loras(tiny):
    x = _train(tiny, [0, 1])
    assert (x[0] - x[1]).abs().max() > 1e-4


def test_frozen_lora_A_stays_the_shared_initialisation(tiny):
    layout = tiny[1]
    x, init = _train(tiny, [0, 1], lora_A="frozen"), random_init(tiny[1], 0)
    for a, b in layout.slices.values():
        assert torch.equal(x[:, a], init[a].expand(2, -1))
        assert x[:, b].abs().max() > 0


def test_shared_lora_A_is_trained_and_one_for_all(tiny):
    layout = tiny[1]
    x, init = _train(tiny, [0, 1, 2], lora_A="shared"), random_init(tiny[1], 0)
    a, _ = next(iter(layout.slices.values()))
    assert torch.equal(x[0, a], x[2, a])
    # lora_B starts at zero, so lora_A first learns in the second step.
    assert not torch.equal(x[0, a], init[a])


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.slow
def test_step_in_several_passes_is_the_step(tiny, at_once):
    """Also of what everybody shares, and no pass is of more people than asked for."""
    base, layout, photos = tiny
    config, seen = AdaptConfig(steps=4, batch_size=4, lora_A="shared"), []
    init, losses = random_init(layout, 0), {None: [], at_once: []}
    trained = {}
    for most in losses:
        handle = base.denoiser.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        with_loss = losses[most].append
        trained[most] = adapt(
            base, layout, init, photos, config, at_once=most, on_step=lambda _, loss, keep=with_loss: keep(loss)
        )
        handle.remove()
    assert seen[:4] == [3 * 4] * 4
    assert sum(seen[4:]) == 4 * 3 * 4
    assert max(seen[4:]) == at_once * 4
    torch.testing.assert_close(trained[at_once], trained[None], rtol=1e-3, atol=1e-5)
    assert losses[at_once] == pytest.approx(losses[None], rel=1e-5)
    assert (trained[None] - init).abs().max() > 1e-2


def test_pilot_takes_no_more_people_at_once_than_a_bank(tiny):
    base, layout, photos = tiny
    seen = []
    handle = base.denoiser.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    pilot = AdaptConfig(steps=1, batch_size=2, lora_A="shared")
    config = ZooConfig(bank=2, pilot_rounds=1, pilot=pilot)
    for in_banks in (False, True):
        learn_init(base, layout, lambda _: photos, replace(config, pilot_in_banks=in_banks), report=str)
    handle.remove()
    assert seen == [3 * 2, 2 * 2, 1 * 2]


@pytest.mark.slow
def test_strength_multiplies_the_deviation_from_the_start(tiny):
    init = random_init(tiny[1], 0)
    plain, strong = _train(tiny, [0, 1]) - init, _train(tiny, [0, 1], strength=1.4) - init
    assert plain.abs().max() > 0
    torch.testing.assert_close(strong, 1.4 * plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "average_from"), [(1, 0.5), (3, 0.9)])
def test_strength_counts_however_few_the_steps(tiny, steps, average_from):
    base, layout, photos = tiny
    init, few = random_init(layout, 0), AdaptConfig(steps=steps, batch_size=2, average_from=average_from)
    made = [adapt(base, layout, init, photos, replace(few, strength=strength)) - init for strength in (1.0, 3.0)]
    assert made[0].abs().max() > 0
    torch.testing.assert_close(made[1], 3 * made[0], rtol=1e-4, atol=1e-6)


def test_pilot_of_few_steps_reports_their_mean_loss(tiny, monkeypatch):
    def adapt(base, layout, init, photos, config, *, at_once, on_step):
        for step in range(config.steps):
            on_step(step, 1.0 + step)
        return init.expand(2, -1)

    monkeypatch.setattr("lorasynth.zoo.initialisation.adapt", adapt)
    base, layout, photos = tiny
    said, config = [], ZooConfig(pilot_rounds=1, pilot=AdaptConfig(steps=4))
    learn_init(base, layout, lambda _: photos, config, report=said.append)
    assert said == ["pilot round 1: loss 2.5000 -> 2.5000"]


@pytest.mark.slow
def test_training_lowers_the_loss_on_noise_it_has_not_seen(tiny):
    base, layout, photos = tiny
    n, j = photos.latents.shape[:2]
    one_look_each = replace(photos, latents=photos.latents[:, :1].expand(-1, j, -1, -1, -1))
    init = random_init(layout, 0)

    @torch.no_grad()
    def loss(vectors):
        generator = torch.Generator().manual_seed(99)
        x, prompts, _ = one_look_each.batch(torch.arange(n)[:, None], torch.arange(j).expand(n, -1))
        noise = torch.randn(x.shape, generator=generator)
        level = base.schedule.row(torch.arange(len(x)) * 80)
        with attached(base.denoiser, layout, vectors):
            return denoising_loss(base, x, noise, level, prompts).mean().item()

    before = loss(init.expand(n, -1))
    config = AdaptConfig(steps=60, batch_size=4, learning_rate=2e-2, adam_epsilon=1e-8)
    assert loss(adapt(base, layout, init, one_look_each, config)) < 0.97 * before


def test_noise_levels_are_one_from_each_part(tiny):
    base, _, photos = tiny
    _, _, part = draw_samples(photos, AdaptConfig(batch_size=10), 0)
    assert sorted((base.schedule.level(part).time // 100).tolist()) == list(range(10))


def test_training_agrees_with_itself_and_not_with_others(tiny):
    layout, x = tiny[1], _train(tiny, [0, 1, 2])
    same = repeatability(layout, x, x, random_init(layout, 0))
    other = repeatability(layout, x, x.roll(1, 0), random_init(layout, 0))
    assert same["agreement"] == pytest.approx(1, abs=1e-4)
    assert other["agreement_centred"] < 0 < same["agreement_centred"]
