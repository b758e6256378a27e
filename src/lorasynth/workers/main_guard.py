"""Worker processes import the script that starts them: whether it lets itself be imported is found out before the work."""

import multiprocessing
import os
import sys

from lorasynth.errors import UsageError

_NO_GUARD = 78
"""Exit code of a process that was about to start workers while it imported the script of its parent."""


def require_main_guard() -> None:
    """Check that the running script can be imported without doing its work again, as each worker does.

    A process tries it. It takes what importing the script takes, and is left out for the command line.

    Raises:
        UsageError: the script has no ``if __name__ == "__main__":`` around its work.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # this is that process, or a worker
        os._exit(_NO_GUARD)
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if not getattr(main, "__file__", None) or name.partition(".")[0] == "lorasynth":
        return
    probe = multiprocessing.get_context("spawn").Process(target=_nothing)
    probe.start()
    probe.join()
    if probe.exitcode == _NO_GUARD:
        raise UsageError(
            f'{main.__file__}: expected its work under `if __name__ == "__main__":`, as worker processes import it, got none; '
            "add that line, or use one worker"
        )


def _nothing() -> None:
    pass
