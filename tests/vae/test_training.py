"""Training pays where the zoo is curved, does no harm where it is flat, and goes on where it stopped."""

import json

import numpy as np
import pytest
import torch

from lorasynth.errors import CheckpointError, ZooError
from lorasynth.training import LoopConfig, Share, config_record
from lorasynth.vae import VAEConfig, fit_vae, zoo_loss
from lorasynth.vae.stem import predictable_stem

TRAIN, HELD = torch.arange(240), torch.arange(240, 300)


def curved_zoo(seed=0):
    """A surface of two dimensions that bends through eight: two numbers say all, but not linearly."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1, 1, size=(2, 300))
    x = np.stack([a, b, a * a, a * b, b * b, a**3, np.sin(3 * a), np.cos(3 * b)], axis=1)
    x = (x - x.mean(0)) @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:8]
    return torch.tensor(x, dtype=torch.float32)


def config(steps, **changes):
    loop = LoopConfig(
        steps=steps, learning_rate=4e-3, warmup_steps=10, ema_decay=0.95, validate_every=20, checkpoint_every_s=1e9
    )
    settings = {
        "stem": "principal",
        "num_components": 8,
        "latent_dim": 2,
        "hidden_dim": 48,
        "dropout": 0.0,
        "batch_size": 64,
        "kl_weight": 1e-3,
    }
    return VAEConfig(**settings | changes, loop=loop)


def fit(x, config, run_dir=None):
    return fit_vae(x, config, train_rows=TRAIN, validation_rows=HELD, run_dir=run_dir)


def relative_error(x, vae):
    with torch.no_grad():
        return ((x - vae.decode(vae.encode(x)[0])).square().sum() / x.square().sum()).item()


@pytest.mark.slow
def test_on_a_curved_zoo_training_beats_pca_on_people_held_out():
    x = curved_zoo()
    vae, metrics = fit(x, config(260))
    assert metrics["vae_error"] < 0.5 * metrics["linear_error"]
    assert metrics["active_units"] == 2
    assert metrics["dimensions_with_kl_below_0.01"] == 0
    assert metrics["kl_per_dimension"] > 0.5
    # The figures are those of whole vectors, and of numpy.
    _, _, vh = np.linalg.svd(x[TRAIN].numpy(), full_matrices=False)
    held = x[HELD].numpy()
    pca_error = np.square(held - held @ vh[:2].T @ vh[:2]).sum() / np.square(held).sum()
    assert metrics["linear_error"] == pytest.approx(pca_error, rel=1e-3)
    assert relative_error(x[HELD], vae) == pytest.approx(metrics["vae_error"], rel=1e-3)
    assert not vae.training


def test_directions_left_out_of_the_stem_count_as_errors():
    x = curved_zoo()
    vae, metrics = fit(x, config(0, num_components=3))
    assert relative_error(x[HELD], vae) == pytest.approx(metrics["vae_error"], rel=1e-3)
    assert metrics["vae_error"] == metrics["linear_error"]


@pytest.mark.parametrize(("zoo", "changes"), [("noise", {"dropout": 0.5}), ("curved", {"kl_weight": 100.0})])
def test_training_never_ends_worse_than_pca(zoo, changes):
    """Noise has no shape to be learned, and a large KL weight leaves nothing to learn with."""
    noise = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    x = noise if zoo == "noise" else curved_zoo()
    vae, metrics = fit(x, config(40, **changes))
    assert metrics["vae_error"] <= metrics["linear_error"]
    assert relative_error(x[HELD], vae) == pytest.approx(metrics["vae_error"], rel=1e-3)


def test_run_that_was_stopped_ends_with_the_same_weights(tmp_path, stopped_in_step):
    x, settings = curved_zoo(), config(30, dropout=0.2)
    whole, metrics = fit(x, settings)
    with stopped_in_step(17):
        fit(x, settings, tmp_path)
    assert (tmp_path / "checkpoint-00000017").is_dir()
    again, metrics_again = fit(x, settings, tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert {**metrics, "seconds": 0} == {**metrics_again, "seconds": 0}
    record = json.loads((tmp_path / "config.json").read_text())
    assert record.pop("data")
    assert record == config_record(settings)


def test_another_configuration_is_refused(tmp_path):
    x = curved_zoo()
    fit(x, config(2), tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration \(kl_weight: 0.001 -> 0.01\)"):
        fit(x, config(2, kl_weight=1e-2), tmp_path)


def test_only_the_training_rows_are_learned_from():
    x = curved_zoo()
    other = x.clone()
    other[HELD] += 1.0
    one, _ = fit(x, config(0))
    two, _ = fit(other, config(0))
    assert torch.equal(one.stem.across, two.stem.across)
    three, _ = fit_vae(x, config(0), train_rows=TRAIN[:100], validation_rows=HELD)
    assert not torch.equal(one.stem.across, three.stem.across)


def test_too_few_rows_are_refused():
    x = curved_zoo()
    with pytest.raises(ZooError, match=r"at least 2 training and 2 validation LoRAs, got 240, 1"):
        fit_vae(x, config(0), train_rows=TRAIN, validation_rows=HELD[:1])
    with pytest.raises(ZooError, match=r"at least 2 training and 2 validation LoRAs, got 1, 60"):
        fit_vae(x, config(0), train_rows=TRAIN[:1], validation_rows=HELD)
    with pytest.raises(ZooError, match=r"at least 9 LoRAs .* got 5 of 12"):
        fit_vae(x, config(0), train_rows=TRAIN[:5], validation_rows=HELD)


def test_run_on_another_zoo_is_refused(tmp_path):
    fit(curved_zoo(), config(20), tmp_path)
    with pytest.raises(CheckpointError, match="data"):
        fit(curved_zoo(seed=1), config(20), tmp_path)


def test_predictable_stem_needs_embeddings():
    with pytest.raises(ZooError, match="needs the embeddings of the zoo's people"):
        fit(curved_zoo(), config(5, stem="predictable"))


def test_with_embeddings_the_vae_looks_where_they_lead():
    x = curved_zoo()
    embeddings = x[:, :4] @ torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    settings = config(0, stem="predictable", num_components=4)
    vae, _ = fit_vae(x, settings, train_rows=TRAIN, validation_rows=HELD, embeddings=embeddings)
    expected = predictable_stem(x[TRAIN], embeddings[TRAIN], 4, [12], 10**6)
    held = x[HELD]
    torch.testing.assert_close(vae.stem.lift(vae.stem(held)), expected.lift(expected(held)), rtol=0, atol=1e-4)


def test_loss_on_whole_vectors_is_error_that_is_told_and_kl():
    """With next to no noise in the latent, and on one batch of all held-out LoRAs."""
    x = curved_zoo()
    vae, metrics = fit(x, config(40))
    with torch.no_grad():
        vae.logvar.weight.zero_()
        vae.logvar.bias.fill_(-10.0)
        mean, _ = vae.encode(x[HELD])
        kl = 0.5 * (mean.square() + np.exp(-10) - 1 + 10).mean().item()
        loss = zoo_loss(vae, x[HELD], 0.01, Share(torch.Generator().manual_seed(0))).item()
    assert loss == pytest.approx(metrics["vae_error"] + 0.01 * kl, rel=0.02)
