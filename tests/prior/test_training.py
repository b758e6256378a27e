"""The prior learns what is there to be learned, no more, and goes on where it stopped."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lorasynth.errors import CheckpointError, ZooError
from lorasynth.prior import PriorConfig, RidgePrior, fit_prior
from lorasynth.prior.training import RIDGE_LAMBDAS, best_ridge
from lorasynth.training import LoopConfig, config_record

N, J, D, Z = 400, 3, 8, 4
TRAIN, HELD = torch.arange(320), torch.arange(320, 400)


def people(curved=1.0, noise=0.05, seed=0):
    """Latents that are linear in a person's embedding plus ``curved`` times a product; photos are embeddings with noise."""
    g = torch.Generator().manual_seed(seed)
    person = F.normalize(torch.randn(N, D, generator=g), dim=1)
    photos = F.normalize(person[:, None] + noise / D**0.5 * torch.randn(N, J, D, generator=g), dim=2)
    linear = person @ torch.randn(D, Z, generator=g)
    z = linear + curved * D**0.5 * person[:, :4] * person[:, 4:] * 2
    return z, torch.full((N, Z), -8.0), photos


def config(steps, **changes):
    loop = LoopConfig(
        steps=steps, learning_rate=5e-3, warmup_steps=10, ema_decay=0.95, validate_every=25, checkpoint_every_s=1e9
    )
    settings = {"width": 32, "depth": 1, "dropout": 0.0, "batch_size": 128}
    return PriorConfig(**settings | changes, loop=loop)


def fit(data, config, run_dir=None):
    return fit_prior(*data, config, train_rows=TRAIN, validation_rows=HELD, run_dir=run_dir)


def explained(prediction, target):
    prediction, target = prediction.numpy(), target.numpy()
    return 1 - np.square(prediction - target).sum() / np.square(target - target.mean(0)).sum()


@pytest.mark.parametrize(
    ("conditioning", "steps", "depth", "gain"), [("adalora", 150, 1, 0.15), ("adanorm", 275, 2, 0.03)]
)
@pytest.mark.slow
def test_it_explains_what_ridge_cannot(conditioning, steps, depth, gain):
    data = people()
    prior, metrics = fit(data, config(steps, conditioning=conditioning, width=64, depth=depth))
    assert metrics["explained"] > metrics["ridge_explained"] + gain
    assert metrics["ridge_explained"] > 0.5
    assert metrics["best_step"] > 0
    assert not prior.training
    # The figures are those of numpy.
    z, _, photos = data
    prediction = prior.predict(photos[HELD, 0], temperature=0.0)
    assert explained(prediction, z[HELD]) == pytest.approx(metrics["explained"], abs=1e-4)


def test_linear_people_are_recovered_at_temperature_0():
    data = people(curved=0.0, noise=0.0)
    prior, metrics = fit(data, config(50))
    assert metrics["ridge_explained"] > 0.999
    assert metrics["explained"] > 0.999
    z, _, photos = data
    torch.testing.assert_close(prior.predict(photos[HELD, 0], temperature=0.0), z[HELD], rtol=0, atol=0.1)


def test_centre_is_ridge_and_spread_what_it_leaves_at_first():
    data = people()
    prior, metrics = fit(data, config(0))
    assert metrics["explained"] == pytest.approx(metrics["ridge_explained"], abs=1e-5)
    z, _, photos = data
    left = z.numpy() - prior.predict(photos[:, 0], temperature=0.0).numpy()
    larger = np.maximum(left[TRAIN].std(axis=0, ddof=1), left[HELD].std(axis=0, ddof=1))
    np.testing.assert_allclose(prior.spread.numpy(), larger, rtol=1e-3)
    # Of unit size, and v = alpha noise - sigma x too: an answer of zero costs 1.
    assert metrics["validation_loss"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_noise_in_the_stem_does_not_hide_what_can_be_learned():
    """Of the training people alone, and large: held people hardly vary along it."""
    z, logvar, photos = people()
    noise = torch.randn(N, 12, generator=torch.Generator().manual_seed(1))
    noise[HELD] *= 0.2
    data = torch.cat([z, noise], 1), torch.cat([logvar, torch.full((N, 12), -8.0)], 1), photos
    _, metrics = fit(data, config(150, width=64))
    assert metrics["explained"] > metrics["ridge_explained"] + 0.03


def test_training_never_ends_with_larger_loss_than_it_began_with():
    z, logvar, photos = people()
    strangers = (z[torch.randperm(N, generator=torch.Generator().manual_seed(0))], logvar, photos)
    before, after = (fit(strangers, config(steps))[1]["validation_loss"] for steps in (0, 60))
    assert after <= before


def test_ridge_is_one_with_smallest_error_on_people_held_out():
    z, _, photos = people(noise=1.0)
    few = TRAIN[:6]
    ridge, lam = best_ridge(photos[few], z[few], photos[HELD], z[HELD])
    x, y = photos[few].flatten(0, 1), z[few].repeat_interleave(J, dim=0)
    errors = []
    for each in RIDGE_LAMBDAS:
        error = RidgePrior.fit(x, y, each).predict(photos[HELD, 0]) - z[HELD]
        errors.append(np.square(error.numpy()).mean())
    assert lam == RIDGE_LAMBDAS[int(np.argmin(errors))] > min(RIDGE_LAMBDAS)
    got = np.square((ridge.predict(photos[HELD, 0]) - z[HELD]).numpy()).mean()
    assert got == pytest.approx(min(errors), rel=1e-6)


def test_only_the_training_people_are_learned_from():
    z, logvar, photos = people()
    lies = z.clone()
    lies[HELD[40:]] = 100.0  # neither of the two lists has them
    some = {"train_rows": TRAIN, "validation_rows": HELD[:40]}
    (one, _), (two, _) = (fit_prior(x, logvar, photos, config(3), **some) for x in (z, lies))
    assert all(torch.equal(t, two.state_dict()[n]) for n, t in one.state_dict().items())


def test_run_that_was_stopped_ends_with_the_same_weights(tmp_path, stopped_in_step):
    data, settings = people(), config(30, dropout=0.2, embedding_noise=0.3)
    whole, metrics = fit(data, settings)
    with stopped_in_step(17):
        fit(data, settings, tmp_path)
    assert (tmp_path / "checkpoint-00000017").is_dir()
    again, metrics_again = fit(data, settings, tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert {**metrics, "seconds": 0} == {**metrics_again, "seconds": 0}
    record = json.loads((tmp_path / "config.json").read_text())
    assert record.pop("data")
    assert record == config_record(settings)


@pytest.mark.slow
def test_each_setting_changes_the_training(tmp_path):
    data, losses = people(), set()
    changes = [{}, {"embedding_noise": 0.3}, {"condition_dropout": 0.5}, {"dropout": 0.2}, {"batch_size": 64}]
    for i, change in enumerate(changes):
        fit(data, config(8, **change), tmp_path / str(i))
        last = (tmp_path / str(i) / "metrics.jsonl").read_text().splitlines()[-1]
        losses.add(json.loads(last)["loss"])
    assert len(losses) == len(changes)


def test_another_configuration_is_refused(tmp_path):
    data = people()
    fit(data, config(2), tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration \(conditioning: adalora -> adanorm\)"):
        fit(data, config(2, conditioning="adanorm"), tmp_path)


def test_run_on_other_people_is_refused(tmp_path):
    fit(people(), config(25), tmp_path)
    with pytest.raises(CheckpointError, match="data"):
        fit(people(seed=1), config(25), tmp_path)


def test_one_validation_person_is_too_few():
    with pytest.raises(ZooError, match="expected at least 2 training and 2 validation people, got 320, 1"):
        fit_prior(*people(), config(5), train_rows=TRAIN, validation_rows=HELD[:1])


@pytest.mark.parametrize("says", ["v_prediction", "sample"])
@pytest.mark.slow
def test_prior_centred_on_zero_learns_all_and_names_no_ridge(says):
    prior, metrics = fit(people(noise=0.0), config(200, centre="zero", prediction_type=says, width=64))
    assert prior.centre(torch.ones(1, D)).abs().max() == 0
    assert prior.prediction_type == says
    assert metrics["explained"] > 0.5
    assert "ridge_explained" not in metrics
