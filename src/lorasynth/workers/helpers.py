"""Processes that work beside a block, and end with it and with the process that started them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from threading import Thread


@contextmanager
def helpers(
    number: int, work: Callable[..., None], *arguments: object, method: str = "spawn"
) -> Iterator[list[BaseProcess]]:
    """Have some processes work beside a block. Its end waits for theirs. Its error ends them, and so does this process's death.

    Args:
        number: of processes.
        work: what each does.
        arguments: of ``work``.
        method: how they are started; see `multiprocessing`.
    """
    context = multiprocessing.get_context(method)
    processes: list[BaseProcess] = [context.Process(target=_help, args=(work, *arguments)) for _ in range(number)]  # type: ignore[attr-defined]
    for process in processes:
        process.start()
    try:
        yield processes
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()


def _help(work: Callable[..., None], *arguments: object) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    work(*arguments)


def _end_with_parent() -> None:
    """Whoever stops the parent, by whatever signal, does not expect its work to go on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
