"""Works done ahead come in order, each once, whatever becomes of the helpers."""

import os
import signal
import time

import pytest

from lorasynth.workers.ahead import done_ahead

COUNT = 40


def square(number):
    return number * number


def open_square(place):
    def work(number):
        (place / f"{number}-{os.getpid()}").touch()
        time.sleep(0.002)
        return square(number)

    return work


def open_deadly(place):
    """A helper that is killed at its third work."""
    done = []

    def work(number):
        done.append(number)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return square(number)

    return work


def open_nothing(place):
    raise OSError("nothing is there")


def slow_square(number):
    time.sleep(0.01)
    return square(number)


@pytest.mark.parametrize("helpers", [0, 1, 3])
@pytest.mark.parametrize("open_work", [open_square, open_deadly, open_nothing])
def test_results_are_in_order_whoever_did_them(tmp_path, helpers, open_work, capfd):
    with done_ahead(helpers, COUNT, slow_square, open_work, tmp_path, method="fork") as results:
        assert list(results) == [square(n) for n in range(COUNT)]
    capfd.readouterr()  # what a helper that failed said


def test_helpers_do_a_part_and_no_work_twice(tmp_path):
    here = []

    def work(number):
        here.append(number)
        return slow_square(number)

    with done_ahead(2, COUNT, work, open_square, tmp_path, method="fork") as results:
        assert list(results) == [square(n) for n in range(COUNT)]
    there = [int(path.name.partition("-")[0]) for path in tmp_path.iterdir()]
    assert there
    assert sorted(here + there) == list(range(COUNT))


def test_helpers_stay_near_to_what_is_taken(tmp_path):
    with done_ahead(1, COUNT, slow_square, open_square, tmp_path, method="fork") as results:
        next(results)
        time.sleep(0.5)
        assert len(list(tmp_path.iterdir())) <= 8
        assert len(list(results)) == COUNT - 1


def test_error_here_ends_the_helpers(tmp_path):
    def fails(number):
        raise KeyError(number)

    def all_of_them():
        with done_ahead(1, COUNT, fails, open_square, tmp_path, method="fork") as results:
            return list(results)

    with pytest.raises(KeyError):
        all_of_them()
