"""The baselines against numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lorasynth.errors import ModelError
from lorasynth.prior import BASELINES, KernelPrior, MeanPrior, NearestPrior, RegressionPrior, RidgePrior, baselines
from lorasynth.prior.baselines import Baseline
from lorasynth.storage.files import write_tensors
from lorasynth.training import LoopConfig

N, D, Z = 60, 6, 3


def data(seed=0, n=N):
    """Embeddings, and targets that are partly linear in them."""
    g = torch.Generator().manual_seed(seed)
    e = F.normalize(torch.randn(n, D, generator=g), dim=1)
    weight = torch.randn(Z, D, generator=torch.Generator().manual_seed(42))
    return e, 2 + e @ weight.T + 4 * (e[:, :3] * e[:, 3:]) + 0.1 * torch.randn(n, Z, generator=g)


def fit_regression(steps):
    e, y = data()
    held, held_y = data(1)
    start = RidgePrior.fit(e, y, lam=0.01)
    loop = LoopConfig(steps=steps, learning_rate=3e-3, warmup_steps=5, validate_every=10)
    return RegressionPrior.fit(e[:, None], y, held[:, None], held_y, start, loop), start


def one_of_each():
    e, y = data()
    regression = RegressionPrior(D, Z, width=8)
    torch.nn.init.normal_(regression.mlp[-1].weight)
    return {
        "nearest": NearestPrior(e, y),
        "mean": MeanPrior(y),
        "ridge": RidgePrior.fit(e, y, 0.1),
        "kernel": KernelPrior.fit(e, y, 0.1),
        "regression": regression.eval(),
    }


@pytest.mark.parametrize("lam", [0.003, 0.1, 1.0, 30.0])
def test_ridge_is_least_squares_with_the_penalty_as_further_rows(lam):
    e, y = data()
    x = e.double().numpy()
    x_mean, y_mean = x.mean(0), y.double().numpy().mean(0)
    penalty = lam * N * x.var(axis=0).mean()
    rows = np.concatenate([x - x_mean, penalty**0.5 * np.eye(D)])
    goals = np.concatenate([y.double().numpy() - y_mean, np.zeros((D, Z))])
    weight = np.linalg.lstsq(rows, goals, rcond=None)[0]
    unseen = data(1)[0]
    expected = y_mean + (unseen.double().numpy() - x_mean) @ weight
    np.testing.assert_allclose(RidgePrior.fit(e, y, lam).predict(unseen).numpy(), expected, atol=1e-5)


def test_ridge_of_many_rows_is_that_of_all_at_once(monkeypatch):
    g = torch.Generator().manual_seed(0)
    e, y = torch.randn(50, 6, generator=g), torch.randn(50, 3, generator=g)
    whole = RidgePrior.fit(e, y, 0.1)
    monkeypatch.setattr(baselines, "_ROWS", 7)
    parts = RidgePrior.fit(e, y, 0.1)
    torch.testing.assert_close((parts.weight, parts.bias), (whole.weight, whole.bias), rtol=1e-6, atol=1e-7)


def test_ridge_finds_the_linear_map_or_with_penalty_the_mean():
    e, y = data()
    weight = torch.randn(Z, D, generator=torch.Generator().manual_seed(5))
    unseen = data(1)[0]
    exact = RidgePrior.fit(e, e @ weight.T - 3, lam=1e-10).predict(unseen)
    torch.testing.assert_close(exact, unseen @ weight.T - 3, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        RidgePrior.fit(e, y, lam=1e7).predict(unseen), y.mean(0).expand(N, -1), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("lam", [0.003, 1.0])
def test_ridge_regresses_to_the_mean(lam):
    """At the mean embedding it answers with the mean, and its answers vary less than the targets do."""
    e, y = data()
    ridge = RidgePrior.fit(e, y, lam)
    torch.testing.assert_close(ridge.predict(e.mean(0, keepdim=True))[0], y.mean(0), rtol=0, atol=1e-5)
    assert (ridge.predict(e).std(0) < 0.95 * y.std(0)).all()


def test_nearest_is_the_target_at_the_smallest_distance():
    e, y = data()
    unseen = data(1)[0]
    distance = np.linalg.norm(unseen.numpy()[:, None] - e.numpy()[None], axis=2)
    nearest = NearestPrior(e, y)
    assert torch.equal(nearest.predict(unseen), y[torch.tensor(distance.argmin(1))])
    assert torch.equal(nearest.predict(e), y)


def test_mean_is_for_everybody():
    e, y = data()
    got = MeanPrior(y).predict(e[:7]).numpy()
    np.testing.assert_allclose(got, np.tile(y.numpy().mean(0), (7, 1)), rtol=1e-5)


def test_regression_begins_as_ridge():
    regression, ridge = fit_regression(steps=0)
    unseen = data(1)[0]
    torch.testing.assert_close(regression.predict(unseen), ridge.predict(unseen), rtol=0, atol=1e-5)


def test_regression_learns_what_is_not_linear():
    regression, ridge = fit_regression(steps=150)
    unseen, target = data(1)
    error = {m: (m.predict(unseen) - target).square().mean().item() for m in (regression, ridge)}
    assert error[regression] < 0.8 * error[ridge]
    assert not regression.training


def test_regression_uses_every_photo_of_a_person():
    """The second photos carry the target and the first are noise: what is learned answers to the second."""
    e, y = data()
    noise = data(7)[0]
    both, held = torch.stack([noise, e], dim=1), torch.stack([e, e], dim=1)
    loop = LoopConfig(steps=100, learning_rate=3e-3, warmup_steps=5, validate_every=10)
    nothing = RidgePrior(torch.zeros(Z, D), y.mean(0))
    regression = RegressionPrior.fit(both, y, held, y, nothing, loop)
    variance = (y - y.mean(0)).square().mean().item()
    assert (regression.predict(e) - y).square().mean().item() < 0.7 * variance


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_answers_like_a_prior_the_same_for_every_seed(name):
    made, e = one_of_each()[name], data(1)[0][:4]
    assert isinstance(made, BASELINES[name])
    got = made.predict(e, seed=1)
    assert got.shape == (4, Z)
    assert not got.requires_grad
    assert torch.equal(got, made.predict(e, seed=2))


@pytest.mark.parametrize("name", BASELINES)
def test_loading_undoes_saving_to_the_precision_of_the_file(tmp_path, name):
    made, e = one_of_each()[name], data(1)[0]
    made.save(tmp_path / "baseline.safetensors")
    again = Baseline.load(tmp_path / "baseline.safetensors")
    assert type(again) is type(made)
    assert not again.training
    assert again.state_dict().keys() == made.state_dict().keys()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[key].half().float()), key
    if name != "nearest":  # two neighbours may change places
        torch.testing.assert_close(again.predict(e), made.predict(e), rtol=0, atol=0.03)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "baseline.safetensors").read_bytes()


def test_large_tables_are_stored_in_a_byte_a_number(tmp_path):
    g = torch.Generator().manual_seed(0)
    made = RidgePrior(torch.randn(80, 500, generator=g), torch.randn(80, generator=g))
    made.save(tmp_path / "ridge.safetensors")
    assert (tmp_path / "ridge.safetensors").stat().st_size < 80 * 500 * 1.1
    again = Baseline.load(tmp_path / "ridge.safetensors")
    assert (again.weight - made.weight).abs().max() <= made.weight.abs().max() / 127 * 0.51


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "baseline.safetensors"
    with pytest.raises(ModelError, match="not found"):
        Baseline.load(path)
    regression = RegressionPrior(D, Z, 8).state_dict() | {"mlp.3.weight": torch.zeros(2, 2)}
    for tensors, header, said in (
        ({"mean": torch.zeros(3)}, {}, "kind: expected 'NearestPrior' or 'MeanPrior'"),
        (
            {"mean": torch.zeros(3)},
            {"kind": "DiffusionPrior"},
            "kind: expected 'NearestPrior' or .*, got 'DiffusionPrior'",
        ),
        ({"mean": torch.zeros(3)}, {"kind": "RidgePrior"}, "bias: expected a tensor, got nothing"),
        (regression, {"kind": "RegressionPrior"}, r"mlp.3.weight: expected shape \(H, H\) with H = 8, got \(2, 2\)"),
    ):
        write_tensors(path, tensors, header)
        with pytest.raises(ModelError, match=said):
            Baseline.load(path)


def test_baseline_without_a_kind_cannot_be_loaded():
    with pytest.raises(TypeError, match="Baseline cannot be loaded by itself"):
        Baseline.from_tensors({})


def gaussian(a, b, width=0.8):
    """The kernel by its usual definition, a Gaussian of the distance."""
    return np.exp(-np.square(a[:, None] - b[None]).sum(2) / (2 * width**2))


def test_kernel_ridge_is_closed_form_of_gaussian_of_distances():
    e, y = data()
    made = KernelPrior.fit(e, y, 0.1)
    support = F.normalize(made.support.double(), dim=1).numpy()
    new = data(1)[0].double().numpy()
    y_mean = y.double().numpy().mean(0)
    alpha = np.linalg.solve(gaussian(support, support) + 0.1 * np.eye(N), y.double().numpy() - y_mean)
    expected = gaussian(new, support) @ alpha + y_mean
    np.testing.assert_allclose(made.predict(data(1)[0]).numpy(), expected, atol=0.05)


def test_kernel_ridge_bends_where_ridge_cannot():
    (e, y), (held, held_y) = data(n=400), data(1)
    errors = [
        (prior.predict(held) - held_y).square().mean().item()
        for prior in (KernelPrior.fit(e, y, 0.01), RidgePrior.fit(e, y, 0.01))
    ]
    assert errors[0] < 0.5 * errors[1]
