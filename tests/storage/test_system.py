"""One module knows the operating system. Where there are no locks, what needs them is refused in a sentence."""

import re
from pathlib import Path

import pytest

import lorasynth
from evidence.results import ResultsFile
from lorasynth.errors import UsageError
from lorasynth.storage import system
from lorasynth.training.checkpoint import run_lock
from lorasynth.workers.locks import locked
from lorasynth.workers.sharing import require_shareable

PACKAGE = Path(lorasynth.__file__).parent


def test_system_is_the_one_module_that_asks_the_system():
    asks = re.compile(r"import fcntl|fcntl\.|os\.O_(NONBLOCK|NOFOLLOW|CLOEXEC|BINARY)|sys\.platform")
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if asks.search(path.read_text())}
    assert found == {"storage/system.py"}


def test_lock_keeps_others_out_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open("r+b") as one, path.open("r+b") as other:
        system.lock(one)
        with pytest.raises(BlockingIOError):
            system.lock(other, shared=True, wait=False)
        one.close()
        system.lock(other, wait=False)


def write_result(folder):
    ResultsFile(folder / "toy.jsonl").add({"cell": "a", "seed": 0})


def hold(context):
    def entered(folder):
        with context(folder):
            pass

    return entered


@pytest.mark.parametrize("act", [hold(locked), hold(run_lock), require_shareable, write_result])
def test_system_without_locks_is_refused_before_a_write(act, tmp_path, monkeypatch):
    monkeypatch.setattr(system.sys, "platform", "win32")
    with pytest.raises(UsageError, match=r"expected Linux or macOS, .* got Windows; run this command in WSL"):
        act(tmp_path)
    assert list(tmp_path.iterdir()) == []
