"""Processes that work beside a block, and end with it and with the process that started them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from threading import Thread

from lorasynth.errors import UsageError


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


@contextmanager
def process_pool(workers: int, begin: Callable[..., None], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """Processes for many tasks. They end with the block, with its error, and with this process.

    `multiprocessing.Pool` waits for ever for the task of a worker that was killed, and ends its workers by a signal.

    Args:
        workers: how many processes.
        begin: what each does first.
        arguments: of ``begin``.

    Raises:
        UsageError: a worker was killed.
    """
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=partial(_help, begin, *arguments)
    )
    try:
        yield executor
    except BaseException as error:
        # Other tasks would run on for hours, and nobody would read their results.
        for process in set(multiprocessing.active_children()).difference(before):
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UsageError(
                f"expected {workers} workers to finish, got one that was killed, as for want of memory; run the same command "
                "again, which goes on, with fewer --workers"
            ) from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _help(work: Callable[..., None], *arguments: object) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    work(*arguments)


def _end_with_parent() -> None:
    """Whoever stops the parent, by whatever signal, does not expect its work to go on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
