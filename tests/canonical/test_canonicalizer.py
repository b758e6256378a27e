"""The whole map: exact on every ΔW, the same for every gauge, and fitted without what does not vary."""

import inspect
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasynth.canonical import Canonicalizer, reference
from lorasynth.errors import LayoutError, ModelError, ZooError
from lorasynth.lora.factors import delta_W_relative_error
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import read_tensors, write_tensors

N = 12
LAYOUTS = {
    rank: Layout.from_dict({"base": "small", "modules": [["a", 9, 7, rank], ["b", 6, 8, rank], ["c", 5, 5, 1]]})
    for rank in (1, 3)
}
every_gauge = pytest.mark.parametrize("gauge", ["procrustes", "anchored"])
every_rank = pytest.mark.parametrize("rank", LAYOUTS)


def zoo(layout, seed=0, n=N, spread=0.3):
    """LoRAs trained, as it were, from one initialisation; and that."""
    g = torch.Generator().manual_seed(seed)
    init = torch.randn(layout.num_parameters, generator=g)
    return init + spread * torch.randn(n, layout.num_parameters, generator=g), init


def frozen_zoo(layout, seed=0):
    """The same with one lora_A for all."""
    vectors, init = zoo(layout, seed)
    for part, _ in layout.slices.values():
        vectors[:, part] = init[part]
    return vectors, init


def fit(vectors, layout, gauge, init):
    return Canonicalizer.fit(vectors, layout, gauge, init if gauge == "anchored" else None)


def regauged(layout, vectors, seed=5):
    g = torch.Generator().manual_seed(seed)
    factors = {}
    for m in layout.modules:
        A, B = layout.split(vectors.double())[m.name]
        eye = torch.eye(m.rank, dtype=torch.float64)
        G = eye + 0.3 * torch.randn(len(vectors), m.rank, m.rank, generator=g, dtype=torch.float64)
        factors[m.name] = (torch.linalg.solve(G, A), B @ G)
    return layout.join(factors).to(vectors.dtype)


def test_reference_of_large_zoo_is_that_of_items_spread_over_it(monkeypatch):
    monkeypatch.setattr(reference, "REFERENCE_ITEMS", 6)
    vectors, _ = zoo(LAYOUTS[3], n=24)
    large = Canonicalizer.fit(vectors, LAYOUTS[3], chunk=2)
    assert torch.equal(large.reference, Canonicalizer.fit(vectors[::4], LAYOUTS[3], chunk=2).reference)
    # How many are handled at once changes rounding alone.
    torch.testing.assert_close(large.reference, Canonicalizer.fit(vectors, LAYOUTS[3], chunk=5).reference)
    # Mean and scale are of all items.
    x = large.apply(vectors)
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), rtol=0, atol=1e-5)
    a, _ = LAYOUTS[3].slices["a"]
    assert x[:, a].square().mean().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("item", [9, 12])
def test_item_that_is_not_finite_is_named_wherever_it_is(monkeypatch, item):
    monkeypatch.setattr(reference, "REFERENCE_ITEMS", 6)
    vectors, _ = zoo(LAYOUTS[1], n=24)
    vectors[item, 3] = torch.nan
    with pytest.raises(ZooError, match=rf"NaN or infinity in items \[{item}\]"):
        Canonicalizer.fit(vectors, LAYOUTS[1], chunk=2)


@every_gauge
@every_rank
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_invert_gives_back_every_update(gauge, rank, seed):
    layout = LAYOUTS[rank]
    vectors, init = zoo(layout, seed)
    canonicalizer = fit(vectors, layout, gauge, init)
    unseen, _ = zoo(layout, seed)
    unseen = unseen + 0.1 * torch.randn(unseen.shape, generator=torch.Generator().manual_seed(seed + 1))
    for x in (vectors, unseen):
        again = canonicalizer.invert(canonicalizer.apply(x))
        assert delta_W_relative_error(layout, x, again).max().sqrt() < 2e-6


@every_gauge
@every_rank
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_apply_is_idempotent_and_the_same_for_every_gauge(gauge, rank, seed):
    layout = LAYOUTS[rank]
    vectors, init = (v.double() for v in zoo(layout, seed))
    canonicalizer = fit(vectors, layout, gauge, init)
    x = canonicalizer.apply(vectors)
    torch.testing.assert_close(canonicalizer.apply(canonicalizer.invert(x)), x, rtol=0, atol=1e-6)
    torch.testing.assert_close(canonicalizer.apply(regauged(layout, vectors)), x, rtol=0, atol=1e-6)


@every_gauge
@every_rank
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_in_float32_apply_undoes_invert_and_repeats_to_last_bit(gauge, rank, seed):
    layout = LAYOUTS[rank]
    vectors, init = zoo(layout, seed)
    canonicalizer = fit(vectors, layout, gauge, init)
    x = canonicalizer.apply(vectors)
    assert torch.equal(canonicalizer.apply(vectors.clone()), x)
    again = canonicalizer.invert(x)
    torch.testing.assert_close(canonicalizer.apply(again), x, rtol=0, atol=2e-3)
    # Round and round nothing is lost: it is the update that stays, to float32's rounding.
    for _ in range(3):
        again = canonicalizer.invert(canonicalizer.apply(again))
    assert delta_W_relative_error(layout, vectors, again).max().sqrt() < 4e-6


DISGUISES = {
    "as it is": lambda A, B: (A, B),
    "lora_A tiny": lambda A, B: (A * 1e-30, B * 1e30),
    "lora_A huge": lambda A, B: (A * 1e30, B * 1e-30),
    "both signs turned": lambda A, B: (-A, -B),
    "rows in another order": lambda A, B: (A.flip(1), B.flip(2)),
    "sizes 1e12 apart": lambda A, B: (A / spread_out(A), B * spread_out(A).mT),
}


def spread_out(A):
    return torch.logspace(0, 12, A.shape[1])[:, None]


@pytest.mark.parametrize("disguise", DISGUISES)
@every_gauge
@every_rank
def test_one_update_in_any_disguise_has_one_vector(gauge, rank, disguise):
    layout = LAYOUTS[rank]
    vectors, init = zoo(layout)
    canonicalizer = fit(vectors, layout, gauge, init)
    change = DISGUISES[disguise]
    disguised = layout.join({name: change(A, B) for name, (A, B) in layout.split(vectors).items()})
    x = canonicalizer.apply(disguised)
    torch.testing.assert_close(x, canonicalizer.apply(vectors), rtol=0, atol=1e-3)
    assert delta_W_relative_error(layout, vectors, canonicalizer.invert(x)).max().sqrt() < 2e-6


@every_gauge
@every_rank
def test_zero_updates_of_every_kind_come_back_as_zero(gauge, rank):
    layout = LAYOUTS[rank]
    vectors, init = zoo(layout)
    a, b = layout.slices["b"]
    vectors[0, b] = 0  # one module untrained
    vectors[1, a] = 0
    vectors[2] = 0
    canonicalizer = fit(vectors, layout, gauge, init)
    again = canonicalizer.invert(canonicalizer.apply(vectors))
    wanted, got = ({n: B @ A for n, (A, B) in layout.split(v.double()).items()} for v in (vectors, again))
    for name, updates in wanted.items():
        error = (got[name] - updates).norm(dim=(1, 2))
        assert error.max() < 1e-6 * updates.norm(dim=(1, 2)).max()


@every_gauge
@every_rank
def test_scaled_vectors_have_mean_0_and_each_tensor_size_1(gauge, rank):
    layout = LAYOUTS[rank]
    vectors, init = zoo(layout, n=40)
    canonicalizer = fit(vectors, layout, gauge, init)
    full = torch.zeros(len(vectors), layout.num_parameters)
    full[:, canonicalizer.active] = canonicalizer.apply(vectors)
    torch.testing.assert_close(full.mean(0), torch.zeros(layout.num_parameters), rtol=0, atol=1e-5)
    for part in (p for pair in layout.slices.values() for p in pair):
        assert full[:, part].square().mean().item() == pytest.approx(1, abs=1e-4)


def test_frozen_lora_A_is_left_out_and_rest_is_linear_in_update():
    layout = LAYOUTS[3]
    vectors, init = frozen_zoo(layout)
    canonicalizer = fit(regauged(layout, vectors), layout, "anchored", init)
    only_B = torch.zeros(layout.num_parameters, dtype=torch.bool)
    for _, part in layout.slices.values():
        only_B[part] = True
    assert torch.equal(canonicalizer.active, only_B)
    assert canonicalizer.num_features == int(only_B.sum())
    # The vector of a mean of updates is the mean of the vectors. (With one lora_A, a mean of vectors is one of updates.)
    x = canonicalizer.apply(torch.cat([vectors, vectors[:2].mean(0, keepdim=True)]))
    torch.testing.assert_close(x[-1], x[:2].mean(0), rtol=0, atol=1e-4)
    again = canonicalizer.invert(canonicalizer.apply(vectors))
    assert delta_W_relative_error(layout, vectors, again).max().sqrt() < 2e-6


@every_rank
def test_procrustes_leaves_less_variance_than_signs_by_chance(rank):
    """What the gauge is for: aligned, a zoo lies closer to its mean than with LAPACK's signs."""
    layout = LAYOUTS[rank]
    vectors, _ = zoo(layout, n=40)
    flips = torch.randint(0, 2, (40, 1), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    canonicalizer = Canonicalizer.fit(vectors * flips, layout)  # a sign on both factors: the same updates
    aligned = canonicalizer.invert(canonicalizer.apply(vectors * flips))

    def explained(x):
        return x.mean(0).square().sum() / x.square().sum(1).mean()

    assert explained(aligned) > 0.8
    assert explained(vectors * flips) < 0.2


@every_gauge
def test_order_and_the_chunks_of_the_zoo_do_not_matter(gauge):
    layout = LAYOUTS[3]
    vectors, init = (v.double() for v in zoo(layout, n=20))
    reference = init if gauge == "anchored" else None
    whole = Canonicalizer.fit(vectors, layout, gauge, reference)
    parts = Canonicalizer.fit(vectors.flip(0), layout, gauge, reference, chunk=7)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.scale, whole.scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(whole.apply(vectors, chunk=3), whole.apply(vectors))


@every_gauge
def test_loading_undoes_saving_to_the_last_bit(tmp_path, gauge):
    layout = LAYOUTS[3]
    vectors, init = frozen_zoo(layout)
    canonicalizer = fit(vectors, layout, gauge, init)
    canonicalizer.save(tmp_path / "canonical.safetensors")
    again = Canonicalizer.load(tmp_path / "canonical.safetensors")
    assert (again.layout, again.gauge) == (layout, gauge)
    assert torch.equal(again.active, canonicalizer.active)
    x = canonicalizer.apply(vectors)
    assert torch.equal(again.apply(vectors), x)
    assert torch.equal(again.invert(x), canonicalizer.invert(x))


def test_errors_name_item_and_module():
    layout = LAYOUTS[3]
    vectors, init = zoo(layout, n=9)
    bad = vectors.clone()
    bad[7, layout.slices["b"][1].start] = torch.nan
    with pytest.raises(ZooError, match=r"b: expected finite LoRAs, got NaN or infinity in items \[7\]"):
        Canonicalizer.fit(bad, layout, chunk=4)
    part = layout.slices["b"][0]
    lost = vectors.clone()
    lost[7, part] = torch.cat([lost[7, part][:6]] * 3)
    with pytest.raises(ZooError, match="b: item 7: its lora_A does not span"):
        Canonicalizer.fit(lost, layout, "anchored", init, chunk=4)


def test_what_cannot_be_fitted_is_refused():
    layout = LAYOUTS[1]
    vectors, _ = zoo(layout)
    with pytest.raises(ZooError, match=r"at least 2 LoRAs .* got 1"):
        Canonicalizer.fit(vectors[:1], layout)
    with pytest.raises(ZooError, match="needs the zoo's shared initialisation"):
        Canonicalizer.fit(vectors, layout, "anchored")
    with pytest.raises(ZooError, match="expected LoRAs that differ"):
        Canonicalizer.fit(vectors[:1].repeat(3, 1), layout)
    with pytest.raises(LayoutError, match="expected vectors of"):
        Canonicalizer.fit(vectors[:, 1:], layout)


def test_vectors_of_another_length_are_refused():
    layout = LAYOUTS[1]
    canonicalizer = Canonicalizer.fit(zoo(layout)[0], layout)
    with pytest.raises(LayoutError, match=f"expected canonical vectors of {canonicalizer.num_features} numbers, got 3"):
        canonicalizer.invert(torch.zeros(1, 3))
    with pytest.raises(LayoutError, match="expected vectors of"):
        canonicalizer.apply(torch.zeros(1, 3))


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "canonical.safetensors"
    write_tensors(path, {"x": torch.zeros(1)}, {"gauge": "procrustes"})
    with pytest.raises(ModelError, match="header, layout: expected JSON, got None"):
        Canonicalizer.load(path)
    layout = LAYOUTS[1]
    Canonicalizer.fit(zoo(layout)[0], layout).save(path)
    tensors, header = read_tensors(path)
    for change, also, said in (
        ({"mean": tensors["mean"] * torch.nan}, {}, "mean: expected finite numbers"),
        ({"mean": tensors["mean"][:5]}, {}, r"mean: expected shape \(P\) with P = 40, got \(5,\)"),
        ({"scale": -tensors["scale"]}, {}, "scale: expected positive numbers"),
        ({}, {"gauge": "x"}, "header, gauge: expected 'procrustes' or 'anchored', got 'x'"),
        ({}, {"layout": "[]"}, "header, layout: expected a layout"),
    ):
        write_tensors(path, tensors | change, header | also)
        with pytest.raises(ModelError, match=said):
            Canonicalizer.load(path)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_same_zoo_gives_the_same_map(seed):
    layout = LAYOUTS[3]
    maps = [Canonicalizer.fit(zoo(layout, seed)[0], layout) for _ in range(2)]
    assert all(torch.equal(a.mean, b.mean) and torch.equal(a.reference, b.reference) for a, b in pairwise(maps))


def test_blocks_count_a_vectors_numbers_module_by_module():
    layout = LAYOUTS[1]
    form = Canonicalizer.fit(zoo(layout)[0], layout)
    assert sum(form.blocks) == form.num_features
    assert form.blocks == [m.rank * (m.in_features + m.out_features) for m in layout.modules]


# The metric of updates.


@every_rank
def test_distances_in_the_metric_of_updates_are_theirs(rank):
    layout = LAYOUTS[rank]
    vectors, init = frozen_zoo(layout)
    form = Canonicalizer.fit(regauged(layout, vectors), layout, "anchored", init, "updates")
    x = form.apply(vectors)
    updates = torch.cat([(B @ A).flatten(1) for A, B in layout.split(vectors.double()).values()], dim=1)
    ratio = (torch.cdist(x.double(), x.double()) / torch.cdist(updates, updates))[~torch.eye(N, dtype=torch.bool)]
    torch.testing.assert_close(ratio, ratio.mean().expand(len(ratio)), rtol=1e-4, atol=0)
    assert x.square().mean().item() == pytest.approx(1, rel=1e-4)
    assert delta_W_relative_error(layout, vectors, form.invert(x)).max().sqrt() < 2e-6
    # With the other metric they are not.
    x = Canonicalizer.fit(vectors, layout, "anchored", init).apply(vectors).double()
    ratio = (torch.cdist(x, x) / torch.cdist(updates, updates))[~torch.eye(N, dtype=torch.bool)]
    assert ratio.std() > 0.02 * ratio.mean()


@every_rank
def test_metric_of_updates_has_orthonormal_lora_A_in_files_too(rank, tmp_path):
    layout = LAYOUTS[rank]
    vectors, init = frozen_zoo(layout)
    form = Canonicalizer.fit(vectors, layout, "anchored", init, "updates")
    form.save(tmp_path / "canonical.safetensors")
    again = Canonicalizer.load(tmp_path / "canonical.safetensors")
    x = form.apply(vectors)
    assert torch.equal(again.apply(vectors), x)
    for A, _ in layout.split(again.invert(x)).values():
        torch.testing.assert_close(A @ A.transpose(1, 2), torch.eye(A.shape[1]).expand(N, -1, -1), rtol=0, atol=1e-5)


def test_metric_of_updates_is_refused_where_it_cannot_hold():
    layout = LAYOUTS[3]
    loose, init = zoo(layout)
    with pytest.raises(ZooError, match=r"a: metric 'updates' needs LoRAs of one lora_A.* use metric='entries'"):
        Canonicalizer.fit(loose, layout, "anchored", init, "updates")
    with pytest.raises(
        ZooError, match=r"metric 'updates' needs gauge 'anchored', got 'procrustes'; use metric='entries'"
    ):
        Canonicalizer.fit(loose, layout, "procrustes", metric="updates")


@pytest.mark.parametrize(
    ("name", "known"), [("gauge", "'procrustes' or 'anchored'"), ("metric", "'entries' or 'updates'")]
)
def test_name_that_names_nothing_is_refused(name, known):
    """Without the tests' type checker, which refuses the argument before."""
    unchecked = inspect.unwrap(Canonicalizer.fit.__func__)
    with pytest.raises(ZooError, match=f"expected {name} {known}, got 'angles'"):
        unchecked(Canonicalizer, zoo(LAYOUTS[1])[0], LAYOUTS[1], **{name: "angles"})
