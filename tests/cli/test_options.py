"""A group of options is a dataclass, and a verb with groups has an option for each of their fields."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from lorasynth.cli.options import expanded


@dataclass(frozen=True, kw_only=True)
class Size:
    """A group with a field that has to be given."""

    width: Annotated[int, typer.Option(min=1)]
    height: Annotated[int | None, typer.Option(min=1)] = None


@pytest.fixture
def call():
    app, seen = typer.Typer(), []

    @app.command()
    @expanded
    def verb(name: Annotated[str, typer.Argument()], *, loud: bool = False, size: Size, last: int = 7) -> None:
        """What it does."""
        seen.append((name, loud, size, last))

    def run(*words):
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, seen.pop() if seen else result.output

    return run


def test_group_arrives_as_its_dataclass(call):
    assert call("a", "--width", "3", "--loud") == (0, ("a", True, Size(width=3), 7))
    assert call("a", "--width", "3", "--height", "4", "--last", "1") == (0, ("a", False, Size(width=3, height=4), 1))


@pytest.mark.parametrize(("words", "said"), [(["a"], "--width"), (["a", "--width", "0"], "--width")])
def test_bounds_of_a_field_are_held(call, words, said):
    code, output = call(*words)
    assert code == 2
    assert said in output


def test_help_has_options_in_the_order_of_the_verb(call):
    code, output = call("--help")
    assert code == 0
    places = [output.index(option) for option in ("--loud", "--width", "--height", "--last")]
    assert places == sorted(places)
    assert "What it does." in output
    assert "--size" not in output
