"""Scores mean what they say."""

import pytest
import torch

from lorasynth.evaluate.identity import (
    average_precision,
    copy_paste,
    interval,
    similarity,
    verification_threshold,
)
from lorasynth.subjects import SIMILARITY
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_world


def test_persons_own_direction_scores_one_and_stranger_zero():
    e = torch.eye(4)
    assert similarity(e[:2, None], e[:2]).tolist() == [1.0, 1.0]
    assert similarity(e[:2, None], e[2:]).tolist() == [0.0, 0.0]


def at(*degrees):
    """Directions in a plane."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_copy_paste_is_one_for_the_given_photo_alone():
    given, others = at(0.0)[0], at(40.0, 60.0)  # 50 degrees away in the mean
    drawn = at(0.0, 50.0, 25.0, -90.0)
    expected = [1.0, (10 - 50) / 50, (25 - 25) / 50, (140 - 90) / 50]
    assert copy_paste(drawn, given, others).tolist() == pytest.approx(expected, abs=1e-5)
    stranger = torch.tensor([[0.0, 0.0, 1.0]])
    flat = torch.cat([torch.stack([given]), others]), torch.zeros(3, 1)
    given, *others = torch.cat(flat, 1)
    assert copy_paste(stranger, given, torch.stack(others)).item() == pytest.approx(0, abs=1e-5)


def test_retrieval_is_the_mean_precision_at_the_persons_photos():
    gallery, own = at(10.0, 20.0, 30.0, 40.0), torch.tensor([True, False, True, False])
    drawn = torch.cat([at(0.0, 50.0), torch.zeros(1, 2)])
    # Ranks 1 and 3 of 4; ranks 2 and 4; and a picture that shows nobody.
    assert average_precision(drawn, gallery, own).tolist() == pytest.approx([(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, 0])
    assert average_precision(drawn, gallery, torch.tensor([True, True, False, False]))[0] == 1


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
