"""What the operating system gives: flags for opening files, and locks. No other module asks which system this is.

Tested on Linux. macOS has all that is used here. Windows has no ``flock``: what locks a folder (zoos, trainings, experiments) is
refused there, and files alone are read and written.
"""

import os
import sys
from typing import IO

from lorasynth.errors import UsageError

if sys.platform != "win32":
    import fcntl

AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Opening never waits, as for a pipe's other end. No child inherits the file, and no byte of it is translated."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""A link is not followed."""


def require_locks() -> None:
    """Refuse a system without locks, before anything is written.

    Raises:
        UsageError: it is Windows.
    """
    if sys.platform == "win32":
        raise UsageError("expected Linux or macOS, where a folder can be locked, got Windows; run this command in WSL")


def lock(file: int | IO, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file or folder. The system frees the lock when the file is closed or its process dies.

    Args:
        file: a descriptor, or an open file.
        shared: others may hold a shared lock at the same time.
        wait: until another's lock is gone.

    Raises:
        UsageError: this system has no locks.
        BlockingIOError: another holds it, and ``wait`` is False.
        OSError: its file system has no locks.
    """
    require_locks()
    if sys.platform != "win32":  # for the type checker
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
