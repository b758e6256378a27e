"""Choosing N by measurement: with a clock of our own, as a real one says another thing each time."""

import pytest
import torch

from lorasynth.errors import UsageError
from lorasynth.zoo import calibration
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.initialisation import random_init


@pytest.fixture
def calibrated(tiny, monkeypatch):
    """Function from (seconds of one step by N, budget) to the calibration; trainings are real, only the clock is ours."""
    base, layout, photos = tiny

    def run(seconds_of, budget):
        now, given = [0.0], []
        real = calibration.adapt

        def adapt(base, layout, init, some, config):
            given.append(len(some.latents))
            now[0] += config.steps * seconds_of(len(some))
            return real(base, layout, init, some, config)

        monkeypatch.setattr(calibration, "adapt", adapt)
        monkeypatch.setattr(calibration.time, "perf_counter", lambda: now[0])
        config = AdaptConfig(batch_size=2)
        found = calibration.calibrate(base, layout, random_init(layout, 0), photos, config, sample_budget=budget)
        assert set(found.seconds) <= set(given)
        return found

    return run


def test_bank_grows_while_that_pays_and_within_the_budget(calibrated):
    overhead = calibrated(lambda n: 10 + n, 20)  # 10 people of two samples: 8 is the last power of two
    assert overhead.places == 8
    assert overhead.seconds == pytest.approx({1: 11, 2: 6, 4: 3.5, 8: 2.25})


def test_it_stops_when_two_doublings_brought_nothing(calibrated):
    found = calibrated(lambda n: 10 + n if n <= 2 else 6 * n, 64)
    assert found.places == 2
    assert sorted(found.seconds) == [1, 2, 4, 8]


def test_budget_below_one_batch_is_refused(calibrated):
    with pytest.raises(UsageError, match="at least one person's batch, 2 samples, got 1"):
        calibrated(lambda n: n, 1)


@pytest.mark.parametrize(("room", "places"), [(1, 1), (2, 2), (4, 4)])
def test_full_memory_ends_the_measurement(calibrated, room, places):
    def seconds(n):
        if n > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 10

    found = calibrated(seconds, 64)
    assert found.places == places
    assert max(found.seconds) == room


def test_memory_without_room_for_one_is_refused(calibrated):
    def seconds(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        UsageError, match="expected memory for one LoRA's batch of 2, got none left; give --gradient-check"
    ):
        calibrated(seconds, 64)
