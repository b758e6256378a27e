"""Measure prose: sentences over 30 words, semicolons, long lines. `python dev/prose.py FILE…`; --strict fails beyond the limits.

Markdown is read without code, tables, headings and pictures; of Python files the docstrings are read. The limits are those of
CONTRIBUTING.md: at most 8 % of sentences over 30 words, at most 0.05 semicolons a sentence, no line of prose over 100 letters.
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

LONG_WORDS, LONG_PART, SEMICOLONS, LINE = 30, 0.08, 0.05, 100


@dataclass(frozen=True)
class Measured:
    """What was counted in one file."""

    sentences: int
    long: int
    semicolons: int
    long_lines: int

    @property
    def within(self) -> bool:
        """Whether the limits are kept."""
        few = self.sentences < 8  # of so few sentences, one long one is no habit
        return (few or self.long <= LONG_PART * self.sentences) and (
            self.semicolons <= max(1, SEMICOLONS * self.sentences) and self.long_lines == 0
        )


def paragraphs(markdown: str) -> list[str]:
    """The prose of a Markdown page, an item a paragraph or bullet."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^( *\||#|!\[|    ).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([*-]|\d+\.)\s+", "\n", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def sentences(paragraph: str) -> list[str]:
    """Its sentences. Code and parentheses count as nothing that is read aloud."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    plain = re.sub(r"``?[^`]*``?", "x", plain)
    while (shorter := re.sub(r"\([^()]*\)", "", plain)) != plain:
        plain = shorter
    parts = re.split(r"(?<=[.!?:])\s+(?=[A-Z*x])", plain)
    return [part for part in parts if len(part.split()) > 3]


def docstrings(source: str) -> list[str]:
    """The prose of a module's docstrings, without Args, Returns and Raises, which are lists."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            said := ast.get_docstring(node)
        ):
            found += paragraphs(re.split(r"^(?:Args|Returns|Raises|Yields):", said, flags=re.MULTILINE)[0])
    return found


def measure(path: Path) -> Measured:
    """Count one file's prose."""
    text = path.read_text()
    parts = docstrings(text) if path.suffix == ".py" else paragraphs(text)
    said = [sentence for part in parts for sentence in sentences(part)]
    prose = "" if path.suffix == ".py" else re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not re.match(r"\s*(\||#|!\[)|    |.*\]\(", line)]
    return Measured(
        sentences=len(said),
        long=sum(len(sentence.split()) > LONG_WORDS for sentence in said),
        semicolons=sum(sentence.count(";") for sentence in said),
        long_lines=sum(len(line) > LINE for line in lines),
    )


def main() -> int:
    """Print a line a file; 1 where --strict and a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a file is beyond the limits")
    options = parser.parse_args()
    print(f"{'sentences':>9s} {'long':>6s} {'; each':>7s} {'lines':>6s}")
    beyond = 0
    for path in options.files:
        m = measure(path)
        beyond += not m.within
        of = max(m.sentences, 1)
        mark = "" if m.within else "  beyond the limits"
        print(f"{m.sentences:9d} {m.long / of:6.0%} {m.semicolons / of:7.2f} {m.long_lines:6d} {path}{mark}")
    return int(options.strict and beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
