"""The command line: ``lorasynth VERB``. Exit code 0, 2 for a user's mistake (one line, no traceback), 1 for ours."""

import sys


def main() -> None:
    """Run the command line; heavy imports wait until a verb needs them."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lorasynth.cli.app import app
    from lorasynth.errors import LorasynthError
    from lorasynth.lora.faults import printable

    try:
        app()
    except LorasynthError as error:
        # What files and folders say is part of messages: one line, and nothing that a terminal would obey.
        print(f"lorasynth: {printable(str(error), 4_096)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("lorasynth: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
