"""A folder's lock: one process at a time writes, and the system frees the lock of one that dies."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorasynth.errors import UsageError
from lorasynth.storage.system import AT_ONCE, NO_LINK, lock, require_locks

_LOCK_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who writes to a folder. The system lets the lock go when its holder dies.

    Raises:
        UsageError: the folder cannot be written, or its file system has no locks.
    """
    require_locks()
    try:  # never through a link, which may lead anywhere; what is there is not emptied
        handle = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | NO_LINK | AT_ONCE, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UsageError(f"{folder / _LOCK_NAME}: expected a regular file, got something else; remove it") from None
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); change its permissions") from None
    with os.fdopen(handle, "r+b", buffering=0) as file:
        try:
            lock(file)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be locked ({error.strerror}); mount it with locks") from None
        yield
