"""What the gauges of LoRAs with unlike beginnings are compared by."""

import pytest
import torch

from claims.initialisation import _deviations, by_svd_and_mean_signs
from lorasynth.canonical.gauge import align_to
from lorasynth.canonical.svd import canonical_factors


def pairs(rank, n=12):
    torch.manual_seed(rank)
    base_A, base_B = torch.randn(rank, 9), torch.randn(7, rank)
    A, B = base_A + 0.1 * torch.randn(n, rank, 9), base_B + 0.1 * torch.randn(n, 7, rank)
    flip = torch.randn(n, 1, 1).sign()
    return flip * A, flip * B


def test_signs_to_mean_keep_update_and_bring_neighbours_together():
    train = torch.arange(8)
    for rank in (1, 3):
        A, B = pairs(rank)
        A_c, B_c = by_svd_and_mean_signs(A, B, train)
        torch.testing.assert_close(B_c @ A_c, B @ A, rtol=1e-4, atol=1e-5)
        side = (A_c * A_c[train].mean(0)).sum(2) + (B_c * B_c[train].mean(0)).sum(1)
        assert (side > 0).all()


def test_at_rank_1_signs_to_the_mean_are_procrustes():
    A, B = pairs(1)
    A_c, B_c = by_svd_and_mean_signs(A, B, torch.arange(12))
    A_p, B_p = align_to(*canonical_factors(A, B)[:2], A_c.mean(0), B_c.mean(0))
    torch.testing.assert_close((A_c, B_c), (A_p, B_p))


def test_people_who_are_scored_have_no_say_in_the_signs():
    A, B = pairs(3)
    train = torch.arange(8)
    before = by_svd_and_mean_signs(A, B, train)
    A[8:], B[8:] = torch.randn_like(A[8:]), torch.randn_like(B[8:])
    after = by_svd_and_mean_signs(A, B, train)
    torch.testing.assert_close([x[train] for x in before], [x[train] for x in after])


@pytest.mark.integration
def test_deviations_are_of_updates_formed_by_hand(context):
    def updates(rows):
        return torch.cat(
            [(B @ A).flatten(1) for A, B in context.zoo.layout.split(context.vectors[rows].double()).values()], dim=1
        )

    expected = (updates(context.scored) - updates(context.train).mean(0)).square().sum(1).mean()
    torch.testing.assert_close(_deviations(context), expected)
