"""Intervals against simulated truth and closed forms."""

import numpy as np
import pytest
import torch

from evidence.experiment import decide, more, times
from evidence.statistics import Interval, best, bootstrap, difference, mean, ratio, scores
from lorasynth.errors import UsageError


def results(seed, seeds=8, people=40, gain=0.0, of_seeds=0.05):
    """Two cells on the same people: hard and easy people, lucky and unlucky seeds, and noise."""
    rng = np.random.default_rng(seed)
    person, luck = rng.normal(0.6, 0.2, people), rng.normal(0, of_seeds, (2, seeds, 1))
    noise = rng.normal(0, 0.03, (2, seeds, people))
    tables = person + luck + noise + np.array([0.0, gain])[:, None, None]
    return {name: [{"s": row.tolist()} for row in table] for name, table in zip("ab", tables, strict=True)}


def test_interval_holds_the_truth_about_as_often_as_it_says():
    held = [i.low <= 0.6 <= i.high for i in (mean(results(seed), "a", "s") for seed in range(120))]
    assert 0.85 < np.mean(held) <= 1.0


def test_pair_is_compared_person_by_person():
    """People differ by 0.2 and that says nothing about the difference, whose error is that of the seeds."""
    found = difference(results(3, gain=0.1), "b", "a", "s")
    alone = mean(results(3, gain=0.1), "a", "s")
    assert found.mean == pytest.approx(0.1, abs=0.08)
    assert difference(results(3, gain=0.1, of_seeds=0.0), "b", "a", "s").high < 0.12
    assert alone.high - alone.low > 2 * 0.2 / 40**0.5


def test_seeds_count_and_not_people_alone():
    """One hundred people do not make up for three seeds that differ."""
    wide = difference(results(1, seeds=3, people=100, of_seeds=0.2), "b", "a", "s")
    narrow = difference(results(1, seeds=3, people=100, of_seeds=0.0), "b", "a", "s")
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_ratio_is_of_means():
    twice = {"a": [{"s": [0.1, 0.3]}], "b": [{"s": [0.2, 0.6]}]}
    found = ratio(twice, "b", "a", "s")
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))


def test_number_has_no_people_and_its_interval_is_over_seeds():
    found = mean({"a": [{"s": 1.0}, {"s": 3.0}]}, "a", "s")
    assert (found.mean, found.low, found.high) == (2, 1, 3)


def test_resample_is_a_mean_over_drawn_rows_and_columns():
    """Of a table with one row, the resampled means have the standard error that statistics books say."""
    values = torch.randn(1, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = bootstrap(lambda means: means[0], values)
    error = values.std(correction=0).item() / 50**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_figure_that_is_not_there_is_named():
    for asked in (("c", "s"), ("a", "t")):
        with pytest.raises(UsageError, match=rf"expected figure '{asked[1]}' of cell '{asked[0]}', got none"):
            scores(results(0), *asked)


def test_best_is_the_one_with_the_largest_mean():
    assert best(results(0, gain=0.5), ["a", "b"], "s") == "b"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.02, 0.03, "confirmed"),
        (-0.02, 0.005, "refuted"),
        (0.005, 0.02, "not decidable here"),
        (0.01, 0.02, "not decidable here"),
    ],
)
def test_verdict_needs_whole_interval_on_one_side_of_bar(low, high, word):
    assert decide("figure", Interval(0.5 * (low + high), low, high), 0.01).word == word


def test_more_is_held_against_the_best_of_several():
    three = results(0, gain=0.3, of_seeds=0.0) | {"c": [{"s": [0.0] * 40}] * 8}
    verdict = more("s", "b", ("a", "c")).judge(three)
    assert (verdict.word, verdict.figure) == ("confirmed", "s, b minus a")
    assert more("s", "a", "b").judge(three).word == "refuted"


def test_times_is_held_against_the_ratio():
    twice = {"a": [{"s": [0.1, 0.3]}], "b": [{"s": [0.2, 0.6]}]}
    assert times("s", "b", "a", 1.5).judge(twice).word == "confirmed"
    assert times("s", "b", "a", 2.5).judge(twice).word == "refuted"
    assert "above 1.5" in times("s", "b", "a", 1.5).words


def test_interval_is_drawn_on_the_cpu_on_any_default_device():
    pair = results(0)
    with torch.device("meta"):
        assert difference(pair, "b", "a", "s") == difference(pair, "b", "a", "s")
    assert mean(pair, "a", "s").mean == pytest.approx(np.mean([run["s"] for run in pair["a"]]))
