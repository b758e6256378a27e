"""Scores mean what they say."""

import pytest
import torch

from lorasynth.evaluate.identity import interval, similarity, verification_threshold
from lorasynth.subjects import SIMILARITY
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_world


def test_persons_own_direction_scores_one_and_stranger_zero():
    e = torch.eye(4)
    assert similarity(e[:2, None], e[:2]).tolist() == [1.0, 1.0]
    assert similarity(e[:2, None], e[2:]).tolist() == [0.0, 0.0]


def test_bootstrap_interval_covers_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        found = interval(torch.randn(60, generator=generator) + 0.3, resamples=300)
        inside += found["low"] <= 0.3 <= found["high"]
    assert 0.89 <= inside / 200 <= 0.99


@pytest.mark.slow
def test_threshold_lets_one_in_a_hundred_strangers_pass():
    """Counted on other people and other photos than those the threshold was set on."""
    subjects = DrawnSubjects(get_world("portraits"))
    loose, strict = (verification_threshold(subjects, SIMILARITY, rate) for rate in (1e-2, 1e-3))
    persons = persons_of(Role.EVALUATED, 150)
    cosines = subjects.given(persons, first=5)[:, 0] @ subjects.centroids(persons).T
    strangers = cosines[~torch.eye(150, dtype=torch.bool)]
    assert 0.005 < (strangers > loose).float().mean() < 0.02
    assert (strangers > strict).float().mean() < 0.003
    assert (cosines.diagonal() > strict).float().mean() > 0.98
