"""Every row of docs/bad-inputs.md has a test in tests/bad_inputs.md, and each of these tests is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from .lora.corpus import ACCEPTED, CONTAINER, CONTENT

ROOT = Path(__file__).parents[1]
PAGE, PROOFS = (re.findall(r"^\| *(\d+) \| (.*) \| ([^|]+) \|$", (ROOT / path).read_text(), re.MULTILINE)
    for path in ("docs/bad-inputs.md", "tests/bad_inputs.md"))  # fmt: skip
ROWS = [(int(number), proofs.split(", ")) for number, _, proofs in PROOFS]
IN_CORPUS = {row.number for row in [*CONTAINER, *CONTENT, *ACCEPTED]} - {0}
WITHOUT_A_TEST = {107, 123}


@cache
def names_in(path):
    """The names of a file's tests, by its syntax tree."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_all_124_are_listed_in_order():
    numbers = [number for number, _ in ROWS]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 125))
    lines = re.findall(r"^\| *\d.*", (ROOT / "docs/bad-inputs.md").read_text(), re.MULTILINE)
    assert [(number, given) for number, given, _ in PROOFS] == [(number, given) for number, given, _ in PAGE]
    assert len(numbers) == len(lines)


def test_corpus_is_named_where_it_has_such_row_and_nowhere_else():
    assert {number for number, proofs in ROWS if "corpus" in proofs} == IN_CORPUS


@pytest.mark.parametrize(("number", "proofs"), ROWS)
def test_what_is_named_is_there(number, proofs):
    if proofs == ["none"]:
        assert number in WITHOUT_A_TEST
    for proof in proofs:
        path, colons, name = proof.partition("::")
        assert proof in ("corpus", "none") or (colons and name in names_in(path)), proof
