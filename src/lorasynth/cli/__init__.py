"""The command line: ``lorasynth VERB``. Exit code 0, 2 for a user's mistake (one line, no traceback), 1 for ours."""

import sys
from io import TextIOWrapper
from types import FrameType
from typing import Any


def main() -> None:
    """Run the command line. Heavy imports wait until a verb needs them."""
    import os
    import signal

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _write_in_any_locale()
    signal.signal(signal.SIGTERM, _end)
    import typer

    from lorasynth.cli.app import app
    from lorasynth.errors import LorasynthError

    Misuse: Any = typer.BadParameter.__bases__[0]  # the parser's UsageError, whichever copy of click typer brings
    try:
        _check_threads()
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except LorasynthError as error:
        _refuse(str(error))
    except Misuse as error:
        if "\n" in error.format_message():  # a group without its verb: what it says is the help
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        _refuse(f"{error.format_message().rstrip('.')}; `{error.ctx.command_path} --help` explains it")
    except (KeyboardInterrupt, typer.Abort):
        print("lorasynth: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # of the system: a folder that may not be entered, a disk that is full or gone
        place = f"{error.filename}: " if error.filename is not None else ""
        _refuse(f"{place}{error.strerror or error}; check the path, its permissions and the disk")
    except MemoryError:
        _refuse("expected more memory than there is; close other programs, or use a larger machine")


def _refuse(message: str) -> None:
    from lorasynth.storage.faults import printable

    print(f"lorasynth: {printable(message, 4_096)}", file=sys.stderr)
    sys.exit(2)


def _end(number: int, frame: FrameType | None) -> None:
    """End in order when told to, so that nothing is left in temporary folders."""
    sys.exit(128 + number)


def _write_in_any_locale() -> None:
    """Escape what the terminal's encoding has no letters for, in place of ending there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_threads() -> None:
    """Hold OMP_NUM_THREADS to one number, before torch reads it.

    Raises:
        UsageError: it is something else.
    """
    import os

    from lorasynth.errors import UsageError

    said = os.environ.get("OMP_NUM_THREADS") or "1"
    if not (said.isascii() and said.isdecimal() and 1 <= int(said[:9]) <= 1_024):
        raise UsageError(f"OMP_NUM_THREADS: expected a number from 1 to 1024, got {said!r:.40}; set or unset it")
