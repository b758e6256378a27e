"""A pool of processes: what they return, and how it ends when one of them fails or dies."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from math import sqrt
from pathlib import Path

import pytest

from lorasynth.errors import UsageError
from lorasynth.workers.helpers import process_pool


def begin(word):
    """What a worker does first: it remembers a word."""
    os.environ["LORASYNTH_TEST_WORD"] = word


def said(number):
    """A worker's word, and what came."""
    return os.environ["LORASYNTH_TEST_WORD"], number


def wait_or_fail(folder, fails):
    """One task fails when the other has begun; the other would wait for minutes."""
    begun = Path(folder) / "begun"
    if fails:
        while not begun.exists():
            time.sleep(0.02)
        return sqrt(-1)
    begun.write_text(str(os.getpid()))
    time.sleep(600)
    return 0


def killed(signal_number):
    """A worker whom the system kills."""
    os.kill(os.getpid(), signal_number)


def alive(pid):
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_of_a_pool_have_what_its_workers_began_with():
    with process_pool(2, begin, "hello") as pool:
        assert list(pool.map(said, range(3))) == [("hello", 0), ("hello", 1), ("hello", 2)]


def test_killed_worker_of_a_pool_is_a_sentence():
    with (
        pytest.raises(UsageError, match=r"expected 2 workers to finish, got one that was killed, .* fewer --workers"),
        process_pool(2, begin, "") as pool,
    ):
        pool.submit(killed, signal.SIGKILL).result()


def test_failed_task_of_a_pool_ends_the_others(tmp_path):
    with pytest.raises(ValueError, match="math domain error"), process_pool(2, begin, "") as pool:
        list(pool.map(partial(wait_or_fail, tmp_path), [True, False]))
    assert not alive(int((tmp_path / "begun").read_text()))


def test_pool_leaves_no_semaphores_behind(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from lorasynth.workers.helpers import process_pool\n"
        "from tqdm import tqdm\n\n\n"
        "def bar(number):\n"
        "    return len(list(tqdm(range(number), disable=False)))\n\n\n"
        "if __name__ == '__main__':\n"
        "    with process_pool(2, len, ()) as pool:\n"
        "        print(list(pool.map(bar, [2, 3])))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ended.stdout == "[2, 3]\n"
    assert "leaked" not in ended.stderr
