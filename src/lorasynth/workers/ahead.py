"""Works done ahead by helper processes, and handed over in order. One process decides, and it alone writes.

For works whose results one process needs one after the other, such as files to read before their zoo is written: what comes out
is what that process alone would have made. `leases` are for equals, who each write what they made.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TypeVar

from lorasynth.workers.helpers import helpers

Result = TypeVar("Result")
EACH = 4
"""How many results for each process may wait to be taken: more would fill memory."""


@contextmanager
def done_ahead(
    number: int,
    count: int,
    work: Callable[[int], Result],
    open_work: Callable[..., Callable[[int], Result]],
    *arguments: object,
    method: str = "spawn",
) -> Iterator[Iterator[Result]]:
    """The results of works 0, 1, ..., in order. Helpers do them ahead, and this process does what nobody has begun.

    A helper that dies, or cannot do a work, leaves it to this process, which then fails itself if the work is to blame.

    Args:
        number: of helpers; 0 for none.
        count: of works.
        work: does one, here.
        open_work: is called once by each helper, with ``arguments``, and gives it its ``work``.
        arguments: of ``open_work``.
        method: how helpers are started; see `multiprocessing`.
    """
    board = _Board(count, (number + 1) * EACH)
    with ExitStack() as stack:
        ends = []
        for _ in range(number):
            ours, theirs = Pipe()
            stack.enter_context(helpers(1, _serve, theirs, open_work, *arguments, method=method))
            theirs.close()  # so that the helper's death is the end of the pipe
            ends.append(ours)
        for ours in ends:
            threading.Thread(target=board.ask, args=(ours,), daemon=True).start()
        try:
            yield board.results(work)
        finally:
            board.close()


class _Board:
    """Which works nobody has begun, and the results that wait."""

    def __init__(self, count: int, most: int):
        self._todo, self._count, self._most = deque(range(count)), count, most
        self._done: dict[int, object] = {}
        self._next, self._closed = 0, False
        self._changed = threading.Condition()

    def results(self, work: Callable[[int], Result]) -> Iterator[Result]:
        """Each in order. While one is with a helper, this process does another."""
        for number in range(self._count):
            while True:
                with self._changed:
                    self._next = number
                    self._changed.notify_all()  # there is room for one more
                    if number in self._done:
                        result = self._done.pop(number)
                        break
                    mine = self._take()
                    if mine is None:
                        self._changed.wait()
                        continue
                result = work(mine)
                if mine == number:
                    break
                with self._changed:
                    self._done[mine] = result
            yield result  # type: ignore[misc]  # what work gives, here or in a helper

    def ask(self, helper: Connection) -> None:
        """Give a helper works, one after the other, and keep what it answers, until it dies or there is nothing left."""
        mine = None
        try:
            while True:
                with self._changed:
                    while not self._closed and self._todo and not self._is_near(self._todo[0]):
                        self._changed.wait()
                    if self._closed or (mine := self._take()) is None:
                        return
                helper.send(mine)
                result = helper.recv()
                with self._changed:
                    self._done[mine], mine = result, None
                    self._changed.notify_all()
        except (EOFError, OSError):
            with self._changed:
                if mine is not None:
                    self._todo.appendleft(mine)
                self._changed.notify_all()
        finally:
            with suppress(OSError):
                helper.send(None)
            helper.close()

    def close(self) -> None:
        """No work is given out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self) -> int | None:
        """The first work that nobody has begun, if its result may wait. Whoever calls holds the lock."""
        return self._todo.popleft() if self._todo and self._is_near(self._todo[0]) else None

    def _is_near(self, work: int) -> bool:
        return work < self._next + self._most


def _serve(asked: Connection, open_work: Callable[..., Callable[[int], object]], *arguments: object) -> None:
    """What a helper does: each work that it is asked for, until it is told to end."""
    work = open_work(*arguments)
    while (number := asked.recv()) is not None:
        asked.send(work(number))
