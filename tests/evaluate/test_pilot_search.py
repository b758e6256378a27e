"""What a pilot tries and chooses, where the values of settings are planted and nothing is trained."""

import math

import pytest

from lorasynth.errors import LayoutError, UsageError
from lorasynth.evaluate.pilot_search import FACTORS, Candidate, Search, choose, require_factors
from lorasynth.zoo.settings import ZooSettings

START = ZooSettings(steps=40, learning_rate=1e-3, adam_epsilon=1e-6, rank=4)
SETS = {"usual": (), "attention": ("to_q",), "linear": ("to_q", "ff")}


def candidate(values, *, settings=START, parameters=100):
    return Candidate(settings=settings, figures={"values": values, "parameters": parameters})


def searched(value_of, factors=FACTORS, start=START):
    """All candidates of a search whose values are planted: three subjects, who agree about differences."""
    run, said = [], []

    def measure(settings):
        value = value_of(settings)
        run.append(settings)
        values = None if value is None else [value - 0.1, float(value), value + 0.1]
        return candidate(values, settings=settings, parameters=settings.rank * (1 + len(settings.targets)))

    tried = Search(run=measure, sets=SETS, report=said.append)(start, factors)
    assert [c.settings for c in tried] == run == list(dict.fromkeys(run))  # nothing is run twice
    return tried, said


def peak(best, number):
    """Less by 1 for each power of ten that a number is away from the best."""
    return 10 - abs(math.log10(number / best))


@pytest.mark.parametrize("best", [1e-3, 0.027, 1.2e-5])
def test_learning_rate_is_found_up_and_down(best):
    tried, _ = searched(lambda s: peak(best, s.learning_rate), ("learning_rate",))
    found = choose(tried).settings.learning_rate
    assert abs(math.log10(found / best)) < math.log10(3) / 2 + 1e-6
    assert len(tried) <= 7


def test_learning_rate_that_diverges_is_left_for_a_lower_one():
    tried, _ = searched(lambda s: None if s.learning_rate > 2e-4 else s.learning_rate, ("learning_rate",))
    assert 1e-4 < choose(tried).settings.learning_rate < 2e-4
    assert choose([candidate(None), candidate(None)]).diverged


def test_learning_rate_is_found_beyond_a_plain_of_nothing():
    """Far below the right one all learning rates are alike but for noise, which may fall either way."""
    noise = {3e-3: -0.01, 9e-3: -0.02, 0.027: 0.005}
    tried, _ = searched(
        lambda s: noise.get(s.learning_rate, 0.5 if s.learning_rate > 0.05 else 0.0), ("learning_rate",)
    )
    assert choose(tried).settings.learning_rate > 0.05


def test_each_factor_starts_from_what_is_best_so_far():
    def value(s):
        return peak(9e-3, s.learning_rate) + peak(3e-5, s.adam_epsilon) + len(s.targets)

    found = choose(searched(value)[0]).settings
    assert (found.learning_rate, found.adam_epsilon, found.targets) == (9e-3, 3e-5, ("to_q", "ff"))
    assert (found.steps, found.rank) == (10, 2)  # they make no difference, and fewer are cheaper


def test_epsilon_is_found_beyond_those_that_are_alike():
    """Adam's epsilon does nothing far below the size of gradients."""
    tried, _ = searched(
        lambda s: 0.3 + max(0.0, 0.1 - abs(math.log10(s.adam_epsilon / 8.1e-3))),
        ("adam_epsilon",),
        ZooSettings(steps=40, learning_rate=1e-3, adam_epsilon=1e-8, rank=4),
    )
    assert choose(tried).settings.adam_epsilon == 8.1e-3


def test_new_epsilon_asks_for_the_learning_rate_again():
    tried, _ = searched(lambda s: 2 * peak(3e-5, s.adam_epsilon) + peak(1e3 * s.adam_epsilon, s.learning_rate))
    found = choose(tried).settings
    assert found.adam_epsilon == 3e-5
    assert found.learning_rate == 0.027


def test_rank_that_the_base_has_not_is_said_and_left_out():
    def value(s):
        if s.rank > 4:
            raise LayoutError("expected a rank from 1 to 4, got 8")
        return s.rank

    tried, said = searched(value, ("rank",))
    assert choose(tried).settings.rank == 4
    assert said == ["not tried: expected a rank from 1 to 4, got 8"]


def test_gain_within_noise_is_not_paid_for():
    cheap = candidate([0.30, 0.40, 0.50])
    dear = ZooSettings(steps=80, learning_rate=1e-3, adam_epsilon=1e-6, rank=4)
    assert choose([cheap, candidate([0.36, 0.34, 0.53], settings=dear)]) is cheap
    # The same mean gain, which all subjects share, is worth the steps.
    assert choose([cheap, candidate([0.31, 0.41, 0.51], settings=dear)]).settings == dear


def test_of_equal_steps_fewer_parameters_are_chosen():
    small = candidate([0.3, 0.5], parameters=50)
    assert choose([candidate([0.32, 0.49], parameters=100), small]) is small
    better = candidate([0.31, 0.52], parameters=50)
    assert choose([small, better]) is better


def test_value_is_above_chance_by_two_standard_errors():
    assert candidate([0.3, 0.4, 0.5]).is_positive
    assert not candidate([-0.3, 0.4, 0.5]).is_positive
    assert not candidate(None).is_positive


def test_unknown_factors_are_refused():
    assert require_factors("rank,targets") == ("rank", "targets")
    with pytest.raises(UsageError, match=r"expected --factors among learning_rate, .*, got 'lr'; name those"):
        require_factors("rank,lr")
