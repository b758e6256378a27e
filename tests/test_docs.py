"""Commands that the pages show are commands that the program has, with options that it takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lorasynth.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = typer.main.get_command(app)
UsageError = typer.BadParameter.__base__


def commands(text):
    """Lines that begin with ``lorasynth``, in blocks and indented; with their continuations, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^(?:    |\w+=\S+ )*(lorasynth [^\n]*)$", joined, re.MULTILINE):
        yield shlex.split(line.partition(" #")[0])[1:]


SHOWN = [(page.name, words) for page in PAGES for words in commands(page.read_text())]


def parsed(words):
    """The verb of a command line, which takes all of its options.

    Raises:
        UsageError: it does not.
    """
    context, command = PROGRAM.context_class(PROGRAM, info_name="lorasynth"), PROGRAM
    while hasattr(command, "commands"):
        if words[0] in ("--help", "--version"):
            return command
        if words[0] not in command.commands:
            raise UsageError(f"no verb {words[0]}")
        command, words = command.commands[words[0]], words[1:]
        context = command.context_class(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))
    return command


def test_pages_open_with_what_the_reader_can_do():
    pages = [page for page in PAGES if page.name not in ("README.md", "index.md")]
    silent = [p.name for p in pages if not p.read_text().partition("\n\n")[2].startswith("After this page you ")]
    assert silent == []


def test_pages_show_commands():
    assert len(SHOWN) > 60


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page}-{' '.join(words)[:60]}" for page, words in SHOWN])
def test_shown_command_is_understood(page, words):
    if any(re.fullmatch(r"[A-Z]+|…|\.\.\.", word) for word in words[:2]):
        return  # a pattern such as `lorasynth VERB`
    parsed(words)


@pytest.mark.parametrize(
    "words", [["nonsense"], ["inspect", "f", "--nonsense"], ["zoo", "nonsense"], ["train", "all", "--zoo"]]
)
def test_command_that_is_not_there_is_seen(words):
    with pytest.raises(UsageError, match=r"(?i)no verb|no such option|requires an argument"):
        parsed(words)
