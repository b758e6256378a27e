"""Canonical factors against the SVD of the formed product."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasynth.canonical import svd
from lorasynth.canonical.svd import by_closed_form, by_gram, by_qr, canonical_factors
from lorasynth.errors import ZooError

ranks = st.integers(1, 5)
seeds = st.integers(0, 100_000)


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(seed, rank, n=3, inner=9, outer=7, dtype=torch.float32):
    return normal(seed, n, rank, inner, dtype=dtype), normal(seed + 1, n, outer, rank, dtype=dtype)


def product(A, B):
    return B.double() @ A.double()


def relative_error(got, wanted):
    return ((got - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2)).clamp(min=1e-300)).max().item()


@given(seeds, ranks)
def test_update_is_kept_and_values_are_those_of_formed_product(seed, rank):
    A, B = pair(seed, rank)
    A_c, B_c, S = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
    torch.testing.assert_close(S, torch.linalg.svdvals(product(A, B))[:, :rank], rtol=1e-6, atol=1e-7)


@given(seeds, ranks)
def test_factors_are_balanced_orthogonal_and_in_order(seed, rank):
    A_c, B_c, S = canonical_factors(*pair(seed, rank, dtype=torch.float64))
    wanted = torch.diag_embed(S)
    torch.testing.assert_close(A_c @ A_c.transpose(1, 2), wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(B_c.transpose(1, 2) @ B_c, wanted, rtol=0, atol=1e-10)
    assert (S.diff(dim=1) <= 0).all()


@given(seeds, ranks)
def test_idempotent(seed, rank):
    A_c, B_c, S = canonical_factors(*pair(seed, rank, dtype=torch.float64))
    A_cc, B_cc, S_again = canonical_factors(A_c, B_c)
    torch.testing.assert_close(S_again, S)
    for one, two in ((A_c, A_cc), (B_c.transpose(1, 2), B_cc.transpose(1, 2))):
        torch.testing.assert_close(two * (two * one).sum(2, keepdim=True).sign(), one)


@settings(max_examples=50)
@given(seeds, ranks)
def test_gauge_of_the_input_does_not_matter(seed, rank):
    A, B = pair(seed, rank, dtype=torch.float64)
    G = normal(seed + 2, 3, rank, rank, dtype=torch.float64) + 3 * torch.eye(rank, dtype=torch.float64)
    A_c, B_c, S = canonical_factors(A, B)
    A_g, B_g, S_g = canonical_factors(torch.linalg.solve(G, A), B @ G)
    torch.testing.assert_close(S_g, S)
    torch.testing.assert_close(product(A_g, B_g), product(A_c, B_c))
    # Equal up to a sign for each singular pair, where values are apart.
    if rank == 1 or (S[:, :-1] / S[:, 1:]).min() > 1.01:
        signs = (A_g * A_c).sum(2, keepdim=True).sign()
        torch.testing.assert_close(A_g * signs, A_c, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_zero_updates_have_zero_factors(rank):
    A, B = pair(0, rank)
    A[0], B[1] = 0, 0
    A[2], B[2] = 0, 0
    for part in canonical_factors(A, B):
        assert (part == 0).all()


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    ("size_A", "size_B"), [(1e-30, 1e30), (1e30, 1e-30), (1e-30, 1e-8), (1e18, 1e18), (1e-42, 1e20)]
)
def test_factors_of_very_different_sizes_keep_their_product(rank, size_A, size_B):
    A, B = pair(0, rank)
    A, B = A * size_A, B * size_B
    A_c, B_c, S = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
    assert torch.isfinite(S).all()
    torch.testing.assert_close(A_c.double().norm(dim=(1, 2)), B_c.double().norm(dim=(1, 2)))


@pytest.mark.parametrize("deficient", ["equal rows", "a zero row", "equal values"])
def test_degenerate_updates_keep_their_product(deficient):
    A, B = pair(0, 3)
    if deficient == "equal rows":
        A[:, 1] = A[:, 0]
    elif deficient == "a zero row":
        A[:, 1] = 0
    else:
        A, B = torch.linalg.qr(A.transpose(1, 2))[0].transpose(1, 2).contiguous(), torch.linalg.qr(B)[0]
    A_c, B_c, S = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
    torch.testing.assert_close(S, torch.linalg.svdvals(product(A, B))[:, :3], rtol=1e-5, atol=1e-6)


def gauged(seed, rank, condition, n=3, inner=33, outer=21):
    """Float32 factors in a random gauge of a condition, and how much larger they are than what they make."""
    A, B = pair(seed, rank, n, inner, outer, torch.float64)
    left, right = (torch.linalg.qr(normal(seed + k, n, rank, rank, dtype=torch.float64))[0] for k in (2, 3))
    G = left * torch.logspace(0, math.log10(condition), rank, dtype=torch.float64) @ right
    A, B = torch.linalg.solve(G, A).float(), (B @ G).float()
    excess = A.double().norm(dim=(1, 2)) * B.double().norm(dim=(1, 2)) / product(A, B).norm(dim=(1, 2))
    return A, B, excess.max().item()


@pytest.mark.parametrize("condition", [1, 10, 1e2, 1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("rank", [2, 4, 8, 16])
def test_badly_conditioned_gauges_keep_the_product(rank, condition):
    A, B, excess = gauged(0, rank, condition)
    A_c, B_c, _ = canonical_factors(A, B)
    # Rounding an input of such a gauge to float32 changes the update by 6e-8 x excess; float64 inside loses 1e-16 x excess.
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6 + 1e-15 * excess


@pytest.mark.parametrize("condition", [1e3, 1e12])
@pytest.mark.parametrize("rank", [2, 4, 7])
def test_directions_of_very_different_sizes_keep_the_product(rank, condition):
    A, B = pair(0, rank, dtype=torch.float64)
    G = torch.logspace(0, math.log10(condition), rank, dtype=torch.float64)
    A, B = (A / G[:, None]).float(), (B * G).float()
    A_c, B_c, _ = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6


@given(seeds, st.integers(2, 8), st.sampled_from([1, 3, 10]))
def test_gram_matrices_give_what_qr_gives(seed, rank, condition):
    A, B, _ = gauged(seed, rank, condition)
    (A_g, B_g, S_g), exact = by_gram(A, B)
    A_q, B_q, S_q = by_qr(A, B)
    torch.testing.assert_close(S_g[exact], S_q[exact], rtol=1e-6, atol=0)
    gap = (S_q[:, :-1] / S_q[:, 1:]).amin(1)
    for item in (exact & (gap > 1.01)).nonzero().flatten():
        signs = (A_g[item] * A_q[item]).sum(1, keepdim=True).sign()
        torch.testing.assert_close(A_g[item] * signs, A_q[item], rtol=0, atol=1e-4 * A_q[item].abs().max().item())
        torch.testing.assert_close(B_g[item] * signs.T, B_q[item], rtol=0, atol=1e-4 * B_q[item].abs().max().item())


@given(seeds, st.integers(2, 8), st.floats(0, 13))
def test_what_gram_matrices_report_as_exact_is(seed, rank, log_condition):
    A, B, _ = gauged(seed, rank, 10**log_condition)
    (A_c, B_c, _), exact = by_gram(A, B)
    if exact.any():
        assert relative_error(product(A_c, B_c)[exact], product(A, B)[exact]) < 1e-6


def test_only_the_items_that_need_it_go_through_qr(monkeypatch):
    seen = []
    monkeypatch.setattr(svd, "by_qr", lambda A, B: seen.append(len(A)) or by_qr(A, B))
    easy, hard = gauged(0, 4, 1, n=5), gauged(0, 4, 1e8, n=2)
    A, B = (torch.cat([easy[k], hard[k], torch.zeros_like(easy[k][:1])]) for k in (0, 1))
    A_c, B_c, _ = canonical_factors(A, B)
    assert seen == [3]
    assert relative_error(product(A_c, B_c)[:5], product(A, B)[:5]) < 1e-6
    assert (A_c[7] == 0).all()
    A1, B1 = A[:, :1].clone(), B[:, :, :1].clone()
    canonical_factors(A1, B1)
    assert seen == [3, 1]


def test_gauge_beyond_float32_is_multiplied_in_float64_not_qr(monkeypatch):
    """Gauges of condition 300 at rank 16, where factors multiplied in float32 miss 1e-6."""
    monkeypatch.setattr(svd, "by_qr", lambda A, B: pytest.fail("went through QR"))
    A, B, excess = gauged(0, 16, 300, n=4, inner=96, outer=64)
    assert excess > 100
    A_c, B_c, _ = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 2e-7
    monkeypatch.setattr(svd, "_MAX_LOSS", math.inf)  # as it would be without
    A_c, B_c, _ = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) > 1e-6


def test_closed_form_gives_what_qr_gives():
    A, B = pair(0, 1, n=20)
    (A_c, B_c, S), exact = by_closed_form(A, B)
    assert exact.all()
    A_q, B_q, S_q = by_qr(A, B)
    signs = (A_c * A_q).sum((1, 2), keepdim=True).sign()
    torch.testing.assert_close((A_c * signs, B_c * signs), (A_q, B_q), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(S, S_q, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_zero_on_one_side_spoils_no_other_item(rank):
    A, B = pair(0, rank, n=4)
    A[1], B[2] = 0, 0
    A_c, B_c, S = canonical_factors(A, B)
    for part in (A_c, B_c, S):
        assert (part[1:3] == 0).all()
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6


@pytest.mark.parametrize("rank", [2, 3, 8])
def test_equal_singular_values_keep_the_product(rank):
    A = torch.linalg.qr(normal(0, 3, 33, rank))[0].transpose(1, 2).contiguous()
    B = torch.linalg.qr(normal(1, 3, 21, rank))[0]
    A_c, B_c, S = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
    torch.testing.assert_close(S, torch.ones_like(S), rtol=1e-6, atol=0)
    again = canonical_factors(A_c, B_c)
    assert relative_error(product(*again[:2]), product(A, B)) < 1e-6


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_same_factors_give_same_bits_alone_and_in_company(rank):
    A, B, _ = gauged(0, rank, 10, n=6)
    together = canonical_factors(A, B)
    assert all(torch.equal(a, b) for a, b in zip(canonical_factors(A.clone(), B.clone()), together, strict=True))
    alone = canonical_factors(A[3:4], B[3:4])
    torch.testing.assert_close(alone, tuple(x[3:4] for x in together), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 4])
def test_half_precision_loses_no_more_than_its_own_rounding(rank, dtype):
    A, B = pair(0, rank, dtype=dtype)
    A_c, B_c, _ = canonical_factors(A, B)
    assert A_c.dtype == B_c.dtype == dtype
    assert relative_error(product(A_c, B_c), product(A, B)) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_items_that_are_not_finite_are_named(value):
    A, B = pair(0, 2, n=9)
    A[4, 1, 2], B[7, 0, 0] = value, -value
    with pytest.raises(ZooError, match=r"NaN or infinity in items \[14, 17\]"):
        canonical_factors(A, B, items=range(10, 19))


def test_sums_that_overflow_are_not_mistaken_for_infinity():
    A, B = pair(0, 2)
    A = A.abs() / A.abs().max() * 3e38
    A_c, B_c, _ = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
