"""The two gauges: exact on the update, the same whatever gauge came in, and each with the property it is there for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasynth.canonical.gauge import align_to, anchor_to
from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import ZooError

ranks = st.integers(1, 4)
seeds = st.integers(0, 100_000)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(seed, rank, n=3):
    return normal(seed, n, rank, 9), normal(seed + 1, n, 7, rank)


def regauged(seed, A, B):
    """The same updates with other factors."""
    n, rank = A.shape[:2]
    G = normal(seed + 2, n, rank, rank) + 3 * torch.eye(rank, dtype=torch.float64)
    return torch.linalg.solve(G, A), B @ G


@given(seeds, ranks)
def test_procrustes_finds_the_rotation_that_was_applied(seed, rank):
    A, B, _ = canonical_factors(*pair(seed, rank))
    Q, _ = torch.linalg.qr(normal(seed + 5, 3, rank, rank))
    for i in range(3):
        A_i, B_i = align_to(Q[i : i + 1].transpose(1, 2) @ A[i : i + 1], B[i : i + 1] @ Q[i], A[i], B[i])
        torch.testing.assert_close((A_i[0], B_i[0]), (A[i], B[i]), rtol=0, atol=1e-8)


@given(seeds, ranks)
def test_procrustes_is_nearer_to_reference_than_other_rotations(seed, rank):
    A, B, _ = canonical_factors(*pair(seed, rank))
    goal_A, goal_B = normal(seed + 7, rank, 9), normal(seed + 8, 7, rank)

    def distance(A, B):
        return (A - goal_A).square().sum((1, 2)) + (B - goal_B).square().sum((1, 2))

    best = distance(*align_to(A, B, goal_A, goal_B))
    for k in range(5):
        Q, _ = torch.linalg.qr(normal(seed + 10 + k, rank, rank))
        assert (distance(Q.T @ A, B @ Q) >= best - 1e-9).all()


@given(seeds, ranks)
def test_procrustes_is_idempotent_and_the_same_for_every_gauge(seed, rank):
    A, B = pair(seed, rank)
    goal = normal(seed + 7, rank, 9), normal(seed + 8, 7, rank)
    balanced = canonical_factors(A, B)[:2]
    once = align_to(*balanced, *goal)
    torch.testing.assert_close(once[1] @ once[0], B @ A)
    torch.testing.assert_close(align_to(*once, *goal), once, rtol=0, atol=1e-7)
    other = align_to(*canonical_factors(*regauged(seed, A, B))[:2], *goal)
    torch.testing.assert_close(other, once, rtol=0, atol=1e-5)


def test_at_rank_1_procrustes_is_a_sign_and_zero_is_left_alone():
    A, B = pair(0, 1)
    A[2], B[2] = 0, 0
    A_a, B_a = align_to(A, B, -A[0], -B[0])
    assert torch.equal(A_a[0], -A[0])
    assert torch.equal(B_a[0], -B[0])
    assert (A_a[2] == 0).all()
    assert ((A_a == A) | (A_a == -A)).all()


@given(seeds, ranks)
def test_anchored_is_exact_idempotent_and_same_for_every_gauge(seed, rank):
    A, B = pair(seed, rank)
    anchor = A[0] + 0.5 * normal(seed + 7, rank, 9)
    if torch.linalg.cond(anchor @ torch.linalg.qr(A.transpose(1, 2))[0]).max() > 1e3:
        return
    once = anchor_to(A, B, anchor)
    torch.testing.assert_close(once[1] @ once[0], B @ A)
    torch.testing.assert_close(anchor_to(*once, anchor), once)
    torch.testing.assert_close(anchor_to(*regauged(seed, A, B), anchor), once)


@given(seeds, ranks)
def test_anchored_lora_A_is_nearest_to_anchor_of_all_gauges(seed, rank):
    A, B = pair(seed, rank, n=1)
    anchor = normal(seed + 7, rank, 9)
    nearest, _ = anchor_to(A, B, anchor)
    for k in range(5):
        other = normal(seed + 20 + k, rank, rank) @ A[0]
        assert (nearest[0] - anchor).norm() <= (other - anchor).norm() + 1e-9


@given(seeds, ranks)
def test_anchored_gauge_is_linear_in_updates_of_one_row_space(seed, rank):
    anchor = normal(seed, rank, 9)
    B, C = normal(seed + 1, 1, 7, rank), normal(seed + 2, 1, 7, rank)
    mixed_A, mixed_B = anchor_to(*regauged(seed, anchor[None], 0.3 * B - 2 * C), anchor)
    torch.testing.assert_close(mixed_A[0], anchor)
    torch.testing.assert_close(mixed_B, 0.3 * B - 2 * C)


def test_items_of_one_lora_A_anchor_as_each_does_by_itself():
    generator = torch.Generator().manual_seed(7)
    A, anchor = torch.randn(3, 20, generator=generator), torch.randn(3, 20, generator=generator)
    B = torch.randn(5, 8, 3, generator=generator)
    B[2] = 0  # its lora_A is the anchor, the others' is not
    together = anchor_to(A.expand(5, -1, -1), B, anchor)
    for i in range(5):
        new_A, new_B = anchor_to(A[None], B[i : i + 1], anchor)
        torch.testing.assert_close(together[0][i], new_A[0])
        torch.testing.assert_close(together[1][i], new_B[0])


def test_zero_update_anchors_at_the_anchor():
    anchor = normal(0, 2, 9)
    A, B = pair(1, 2)
    A[0] = 0  # lora_A zero
    B[1] = 0  # lora_B zero, as untrained LoRAs have it
    A_a, B_a = anchor_to(A, B, anchor)
    for i in (0, 1):
        assert torch.equal(A_a[i], anchor)
        assert (B_a[i] == 0).all()
    torch.testing.assert_close(B_a @ A_a, B @ A)


def test_item_that_the_anchor_does_not_span_is_named():
    A, B = pair(0, 2)
    anchor = A[0].clone()
    anchor[1] = anchor[0]
    with pytest.raises(ZooError, match=r"item 5: its lora_A does not span .* use gauge='procrustes'"):
        anchor_to(A, B, anchor, items=range(5, 5 + len(A)))
    A[1, 1] = A[1, 0]  # rows that depend on each other
    with pytest.raises(ZooError, match=r"item 1: .*got inf"):
        anchor_to(A, B, A[0])


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_row_space_that_the_anchor_does_not_see_is_refused(rank):
    """Orthogonal to it but for rounding, whose own condition is small. At a cosine of 1e-3 the update is kept."""
    A, B = pair(0, rank)
    anchor = normal(1, rank, A.shape[2])
    beside = torch.linalg.svd(anchor)[2][rank : 2 * rank]  # orthonormal rows of its null space
    A[2] = beside
    with pytest.raises(ZooError, match=r"item 2: its lora_A does not span"):
        anchor_to(A, B, anchor)
    A[2] = beside + 1e-3 * torch.linalg.svd(anchor)[2][:rank]
    A_a, B_a = anchor_to(A, B, anchor)
    torch.testing.assert_close(B_a @ A_a, B @ A, rtol=0, atol=1e-9)


def test_factors_that_are_not_finite_are_named():
    A, B = pair(0, 2)
    B[1, 0, 0] = torch.nan
    with pytest.raises(ZooError, match=r"NaN or infinity in items \[8\]"):
        anchor_to(A, B, normal(1, 2, A.shape[2]), items=range(7, 7 + len(A)))
