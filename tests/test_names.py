"""Names of tests are short claims: at most 60 characters, the subject first, none twice in a file."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def names_by_file():
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text()))
        found[path.relative_to(TESTS).as_posix()] = [
            node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    return found


FOUND = names_by_file()


def test_names_are_at_most_60_characters():
    assert sum(map(len, FOUND.values())) > 1_400
    assert [(file, name) for file, names in FOUND.items() for name in names if len(name) > 60] == []


def test_names_begin_with_their_subject():
    articles = ("test_a_", "test_an_", "test_the_")
    assert [(file, name) for file, names in FOUND.items() for name in names if name.startswith(articles)] == []


def test_names_are_not_given_twice_in_a_file():
    assert [file for file, names in FOUND.items() if len(set(names)) < len(names)] == []
