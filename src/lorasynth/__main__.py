"""``python -m lorasynth``: the command line."""

from lorasynth.cli import main

main()
