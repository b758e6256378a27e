"""The pages that were rewritten stay readable: `dev/prose.py` counts sentences, semicolons and lines."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "integrations/comfyui/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGES = sorted(path.parent.name for path in (ROOT / "src/lorasynth").glob("*/__init__.py"))


@pytest.fixture
def measured(monkeypatch, capsys):
    """Function from files to exit code and output of `python dev/prose.py --strict FILES`, in this process."""

    def run(*files):
        monkeypatch.setattr(sys, "argv", ["prose.py", "--strict", *map(str, files)])
        with pytest.raises(SystemExit, match=r"^\d$") as stop:
            runpy.run_path(str(ROOT / "dev" / "prose.py"), run_name="__main__")
        return stop.value.code, capsys.readouterr().out

    return run


def test_pages_keep_to_the_limits(measured):
    assert len(PAGES) > 20
    code, said = measured(*PAGES)
    assert code == 0, said


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_keep_to_the_limits(measured, package):
    code, said = measured(*sorted((ROOT / "src/lorasynth" / package).rglob("*.py")))
    assert code == 0, said


def test_docstrings_of_single_modules_keep_to_the_limits(measured):
    code, said = measured(*sorted((ROOT / "src/lorasynth").glob("*.py")))
    assert code == 0, said


@pytest.mark.parametrize(
    "prose",
    [
        " ".join(["This sentence has very many words"] * 8) + ".\n",
        "One thing happens here; another thing happens there; a third one follows. It is short and says a thing.\n",
        "A line of prose that nobody wrapped at a hundred letters is long, " * 2 + "\n",
    ],
)
def test_prose_beyond_a_limit_is_counted(measured, tmp_path, prose):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n" + "A short sentence says one thing.\n" * 8 + "\n" + prose)
    code, said = measured(page)
    assert code == 1
    assert "beyond the limits" in said


def test_each_row_of_a_table_is_a_line_of_its_own():
    """Wrapped to a paragraph, a table is shown as its source."""
    rules = [(page.name, line) for page in PAGES for line in page.read_text().splitlines() if "|---|" in line]
    assert len(rules) > 100
    assert [rule for rule in rules if not re.fullmatch(r"\s*\|(-+\|)+", rule[1])] == []


def test_code_and_tables_are_no_prose(measured, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n    " + "code; " * 60 + "\n\n| " + "cell; " * 60 + "|\n\n```\n" + "word; " * 60 + "\n```\n"
    )
    assert measured(page)[0] == 0
