"""Canonical factors against the SVD of the formed product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasynth.canonical.svd import canonical_factors
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
def test_the_update_is_kept_and_the_values_are_those_of_the_formed_product(seed, rank):
    A, B = pair(seed, rank)
    A_c, B_c, S = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
    torch.testing.assert_close(S, torch.linalg.svdvals(product(A, B))[:, :rank], rtol=1e-6, atol=1e-7)


@given(seeds, ranks)
def test_factors_are_balanced_and_orthogonal_with_the_values_in_order(seed, rank):
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
def test_the_gauge_of_the_input_does_not_matter(seed, rank):
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


def test_badly_conditioned_gauges_keep_the_product():
    A, B = pair(0, 4, dtype=torch.float64)
    G = torch.diag(torch.tensor([1.0, 1e-3, 1e3, 1e5], dtype=torch.float64))
    A_c, B_c, _ = canonical_factors(torch.linalg.solve(G, A).float(), (B @ G).float())
    assert relative_error(product(A_c, B_c), product(torch.linalg.solve(G, A).float(), (B @ G).float())) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_items_that_are_not_finite_are_named(value):
    A, B = pair(0, 2, n=9)
    A[4, 1, 2], B[7, 0, 0] = value, -value
    with pytest.raises(ZooError, match=r"NaN or infinity in items \[14, 17\]"):
        canonical_factors(A, B, first_item=10)


def test_sums_that_overflow_are_not_mistaken_for_infinity():
    A, B = pair(0, 2)
    A = A.abs() / A.abs().max() * 3e38
    A_c, B_c, _ = canonical_factors(A, B)
    assert relative_error(product(A_c, B_c), product(A, B)) < 1e-6
