"""Leases: which of many processes, on machines that share a folder, works on what. They save work. Who is right is for the store.

    FOLDER/.leases/shard-00012.0     made with O_EXCL: this work is taken; its owner, host, and a count that its owner raises
    FOLDER/.leases/shard-00012.1     the same work, taken over from an owner who is gone

Nobody's clock is believed: a lease has expired when whoever wants it has seen its count stand still for a while, by the steady
clock of their own. On its owner's machine it is free as soon as the owner dies, who holds the system's lock of its file.
Two owners of one work (the first was halted for long) are possible and do no harm: the store takes an item once.
"""

import json
import os
import re
import secrets
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lorasynth.errors import UsageError, ZooError
from lorasynth.storage.faults import shown
from lorasynth.storage.system import AT_ONCE, NO_LINK, lock

FOLDER_NAME = ".leases"
EXPIRES_AFTER_S = 60.0
_LEASE = re.compile(r"(.+)\.([0-9]{1,200})", re.DOTALL)
_MAX_BYTES = 4_096  # of a lease's words


@dataclass(frozen=True)
class _Look:
    """Somebody's lease as it was seen."""

    owner: str
    host: str
    count: int
    locked: bool
    since: float  # when this count was first seen, by `time.monotonic`


class Leases:
    """The leases of a folder, as one process sees them.

    Args:
        folder: that the processes share.
        expires_after_s: for how long a lease's count may stand still; the same for all processes.
    """

    def __init__(self, folder: Path, *, expires_after_s: float = EXPIRES_AFTER_S):
        self.folder = folder / FOLDER_NAME
        self.expires_after_s, self.renew_every_s = expires_after_s, expires_after_s / 10
        self.host = socket.gethostname()
        self._looks: dict[Path, _Look] = {}

    def claim(self, names: Iterable[str]) -> "Lease | None":
        """Take the first of some works that nobody has. To be used as a context.

        Args:
            names: of the works, as file names; taken one by one, so that a generator can say each time what is left.

        Raises:
            UsageError: the folder cannot be written.
            ZooError: locks do not reach another machine that is at work here.
        """
        for name in names:
            if lease := self._claim(name):
                return lease
        return None

    def share_out(
        self,
        unfinished: Callable[[], Iterable[str]],
        work: Callable[[str], None],
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all works together with whoever else does the same, until all are done.

        Args:
            unfinished: names those that nobody has finished yet; it is asked again each time.
            work: does one. It may find that another owner of the lease was faster.
            on_look: called after each look at what is left.

        Raises:
            UsageError: the folder cannot be written.
            ZooError: locks do not reach another machine that is at work here.
        """
        while True:
            left = 0

            def names() -> Iterator[str]:
                nonlocal left
                for name in unfinished():
                    left += 1
                    yield name

            lease = self.claim(names())
            on_look()
            if lease is not None:
                with lease:
                    work(lease.name)
            elif left:  # others have them all: wait, for them or for their end
                time.sleep(min(1.0, self.expires_after_s / 20))
            else:
                return

    def _claim(self, name: str) -> "Lease | None":
        generation = max((g for work, g in _leases_in(self.folder) if work == name), default=-1)
        if generation >= 0 and not self._is_free(self.folder / f"{name}.{generation}"):
            return None
        path = self.folder / f"{name}.{generation + 1}"
        self._make_folder()
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except (FileExistsError, FileNotFoundError):  # somebody was faster, or tidied up
            return None
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be written ({error.strerror}); make room, or change permissions"
            ) from None
        return Lease(path, handle, self.host, self.renew_every_s)

    def _make_folder(self) -> None:
        """Make the folder of leases, unless somebody has.

        Raises:
            UsageError: it cannot be made, or something else lies in its place.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except FileNotFoundError:  # the zoo's own folder went
            return
        except FileExistsError:
            raise UsageError(
                f"{shown(self.folder)}: expected a folder for leases, got something else; move it away"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{shown(self.folder)}: cannot be written ({error.strerror}); change its permissions"
            ) from None

    def _is_free(self, path: Path) -> bool:
        """Whether the owner of a lease is gone: dead on this machine, or silent for too long."""
        try:
            look = self._look(path)
        except FileNotFoundError:
            return False  # given back just now; the next look finds none
        except OSError:
            return True  # a folder, link or pipe of that name, or a file that nobody may read: no lease
        silent_s = time.monotonic() - look.since
        if not look.host:  # between O_EXCL and its owner's first word, or that never comes
            return silent_s > self.renew_every_s
        return silent_s > self.expires_after_s or (look.host == self.host and not look.locked)

    def _look(self, path: Path) -> _Look:
        handle = os.open(path, os.O_RDONLY | NO_LINK | AT_ONCE)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{path}: no regular file")
            record, locked = _record(os.read(handle, _MAX_BYTES)), _is_locked(handle)
        finally:
            os.close(handle)
        look = _Look(
            str(record.get("owner", "")), str(record.get("host", "")), record.get("count", -1), locked, time.monotonic()
        )
        before = self._looks.get(path, look)
        if (before.owner, before.count) == (look.owner, look.count):
            look = replace(look, since=before.since)
        elif before.owner == look.owner and look.host != self.host and not before.locked:
            raise ZooError(
                f"{self.folder.parent}: expected locks that reach all machines that work here, got none of {look.host}; mount "
                "the folder with them (NFS: without nolock or local_lock), or let one machine work"
            )
        self._looks[path] = look
        return look

    def require_locks_that_reach(self) -> None:
        """Check, before anything is stored, that locks of other machines that work here are seen.

        Takes two times ``renew_every_s`` where a lease of another machine has no lock: its owner is gone, or was not seen.

        Raises:
            ZooError: one raised its count and did not lock it.
        """
        for wait_s in (2 * self.renew_every_s, 0.0):
            for work, generation in _leases_in(self.folder):
                with suppress(OSError):  # given back, or no lease
                    self._look(self.folder / f"{work}.{generation}")
            if all(look.locked or look.host in ("", self.host) for look in self._looks.values()):
                return
            time.sleep(wait_s)

    def tidy(self) -> None:
        """Remove all leases, when all work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Lease:
    """The right to do a work, renewed by a thread until the end of its context.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, handle: int, host: str, renew_every_s: float):
        self.name, _, generation = path.name.rpartition(".")
        self._path, self._generation = path, int(generation)
        self._handle, self._renew_every_s = handle, renew_every_s
        self._record = {"owner": secrets.token_hex(8), "process": os.getpid(), "host": host}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease of {self.name}")
        try:
            lock(handle)
            self._renew(0)
        except OSError as error:
            self._give_back()
            raise UsageError(
                f"{path}: cannot be written ({error.strerror}); make room, or mount it with locks"
            ) from None

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._give_back()

    def _keep(self) -> None:
        count, next_owners = 0, self._path.with_name(f"{self.name}.{self._generation + 1}")
        while not self._done.wait(self._renew_every_s) and not next_owners.exists():
            count += 1
            with suppress(OSError):  # if it lasts, somebody takes over
                self._renew(count)

    def _renew(self, count: int) -> None:
        os.pwrite(self._handle, json.dumps({**self._record, "count": count}).encode() + b"\n", 0)
        os.fsync(self._handle)  # for other machines to see

    def _give_back(self) -> None:
        """Remove the lease, and before it those of earlier owners."""
        mine = sorted(g for work, g in _leases_in(self._path.parent) if work == self.name and g <= self._generation)
        for generation in mine:
            with suppress(OSError):
                self._path.with_name(f"{self.name}.{generation}").unlink()
        os.close(self._handle)


def _leases_in(folder: Path) -> list[tuple[str, int]]:
    """The work and generation of each file that is named as a lease. Others are nobody's business."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = (_LEASE.fullmatch(name) for name in names)
    return [(match[1], int(match[2])) for match in found if match and str(int(match[2])) == match[2]]


def _record(content: bytes) -> dict:
    """What a lease says. Nothing, where its owner died before a word."""
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return {}


def _is_locked(handle: int) -> bool:
    try:
        lock(handle, shared=True, wait=False)
    except BlockingIOError:
        return True
    return False
