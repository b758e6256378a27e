"""Can several processes share a folder? Its file system is tried before they begin."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from lorasynth.errors import UsageError, ZooError
from lorasynth.storage.system import lock, require_locks

_ROUNDS, _RIVALS = 16, 8


def require_shareable(folder: Path) -> None:
    """Check that of several who make one file at once just one succeeds, and that a lock has one holder.

    What one machine cannot find out is whether that holds between machines: see `Leases.require_locks_that_reach`.

    Args:
        folder: where, such as that of the leases; made if need be.

    Raises:
        UsageError: it cannot be written.
        ZooError: its file system is not fit for several processes.
    """
    require_locks()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as place:
            exclusive = all(_winners(Path(place) / str(n)) == 1 for n in range(_ROUNDS))
            locks = _locks_exclude(Path(place) / "0")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    if not (exclusive and locks):
        lacking = "files that only one process can make (O_EXCL)" if not exclusive else "locks (flock)"
        raise ZooError(
            f"{folder.parent}: expected a file system for several processes, got one without {lacking}; build with one worker "
            "(--workers 1, and no other process), or on another disk"
        )


def _winners(path: Path) -> int:
    """How many of some threads that make one file at once are told that they made it."""
    barrier, won = threading.Barrier(_RIVALS), []

    def make() -> None:
        barrier.wait()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return
        won.append(1)

    _at_once(make)
    return len(won)


def _at_once(act: Callable[[], None]) -> None:
    threads = [threading.Thread(target=act) for _ in range(_RIVALS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _locks_exclude(path: Path) -> bool:
    with path.open("r+b") as one, path.open("r+b") as other:  # NFS locks no file that is only read
        try:
            lock(one, wait=False)
        except OSError:
            return False
        try:
            lock(other, wait=False)
        except BlockingIOError:
            return True
        return False
