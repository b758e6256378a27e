"""Scores mean what they say."""

import torch

from lorasynth.evaluate.identity import interval, similarity


def test_the_persons_own_direction_scores_one_and_a_stranger_zero():
    e = torch.eye(4)
    assert similarity(e[:2, None], e[:2]).tolist() == [1.0, 1.0]
    assert similarity(e[:2, None], e[2:]).tolist() == [0.0, 0.0]


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        found = interval(torch.randn(60, generator=generator) + 0.3, resamples=300)
        inside += found["low"] <= 0.3 <= found["high"]
    assert 0.89 <= inside / 200 <= 0.99
