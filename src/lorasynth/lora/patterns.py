"""PEFT's ``rank_pattern`` and ``alpha_pattern``: regular expressions, matched as PEFT matches them but in bounded time.

PEFT tries one after the other on the end of a module's name, from a dot on (`peft.utils.other.get_pattern_key`), by Python's
own engine. An expression from a stranger's file can make that run for hours. Here Python's parser reads the expression, and
follows all its possible ends in a name at once, as the bits of one number. It is the shift-and method (Baeza-Yates and Gonnet
1992), extended to groups and repetitions.
"""

import importlib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from lorasynth.storage.faults import refuse

MAX_LETTERS = 400
MAX_STEPS = 1_000_000
"""Of one file: a second or two. Names of modules cost next to none."""

_PARSER: Any = importlib.import_module("re._parser")
_CODES: Any = importlib.import_module("re._constants")
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _CODES.CATEGORY_DIGIT: str.isdecimal,
    _CODES.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    _CODES.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    _CODES.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
    _CODES.CATEGORY_SPACE: str.isspace,
    _CODES.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
}
_SUFFIX = re.compile(r"[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*")


class Patterns:
    """Expressions in their order, and the first that fits a module."""

    def __init__(self, patterns: Iterable[str], where: str):
        """Read the expressions. ``where`` is what to call them in a message.

        Raises:
            FaultyFileError: one is no expression, or one of a kind that is not followed here.
        """
        self._where, self._steps = where, 0
        self._patterns = {pattern: number for number, pattern in enumerate(dict.fromkeys(patterns))}
        self._in_order = list(self._patterns)
        self._parsed: dict[str, Any] = {pattern: self._parse(pattern) for pattern in self._patterns}
        # NOTE: names of modules, which is what nearly all are, are looked up; only what else a dot may stand for is not.
        self._others = {p: n for p, n in self._patterns.items() if not _SUFFIX.fullmatch(p.removeprefix("^"))}
        self._of_length: dict[int, list[str]] = {}
        for pattern in self._patterns.keys() - self._others.keys():
            self._of_length.setdefault(len(pattern.removeprefix("^")), []).append(pattern)

    def first_for(self, name: str) -> str | None:
        """The first expression that PEFT would take for a module. None if there is none.

        Raises:
            FaultyFileError: there is more to follow than a file can mean.
        """
        if not self._patterns:
            return None
        ends = [0, *(i + 1 for i, letter in enumerate(name) if letter == ".")]
        near = [p for end in ends for p in self._of_length.get(len(name) - end, ())]
        matches = [self._patterns[p] for p in near if self._is_near(p, name)]
        first = min(matches, default=len(self._patterns))
        first = min((n for p, n in self._others.items() if n < first and self._matches(p, name)), default=first)
        return None if first == len(self._patterns) else self._in_order[first]

    def _is_near(self, pattern: str, name: str) -> bool:
        """Whether a name, with dots that stand for any letter, is that of the module or its end after a dot."""
        self._count()
        text = pattern.removeprefix("^")
        end = name[len(name) - len(text) :]
        if text != pattern and end != name:
            return False
        return end == text or all(a in (".", b) for a, b in zip(text, end, strict=True))

    def _matches(self, pattern: str, name: str) -> bool:
        full = 1 << len(name)
        letters: dict[str, int] = {}
        for i, letter in enumerate(name):
            letters[letter] = letters.get(letter, 0) | 1 << i
        return bool(self._ends(self._parsed[pattern], 1, letters, full) & full)

    def _parse(self, pattern: str) -> Any:
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of what may mean more some day
                # Exactly the text that PEFT compiles, groups that a pattern closes or opens included.
                parsed = _PARSER.parse(rf"(.*\.)?({pattern})$") if len(pattern) <= MAX_LETTERS else None
            if parsed is not None and parsed.state.flags == re.UNICODE:
                self._ends(parsed, 0, {}, 1)  # with nothing to match: it goes through all parts
                return parsed
        except (re.error, RecursionError, OverflowError) as error:
            raise self._refused(pattern, f"none ({error})") from None
        raise self._refused(pattern, "one of another kind")

    def _refused(self, pattern: str, got: str) -> Exception:
        what = "regular expressions of letters, classes, groups and repetitions"
        fix = "read it with PEFT, and save it again with the names of its modules written out"
        return refuse("bad-metadata", self._where, what, f"{got}: {pattern}", fix)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            fix = "read it with PEFT, and save it again with fewer"
            raise refuse("bad-metadata", self._where, "expressions as a LoRA has them", "far too many to follow", fix)

    def _ends(self, parts: Any, starts: int, letters: dict[str, int], full: int) -> int:
        """Where a match can end that begins at any of ``starts``. A place in the name is a bit."""
        for code, value in parts:
            self._count()
            if code is _CODES.SUBPATTERN and not (value[1] or value[2]):
                starts = self._ends(value[3], starts, letters, full)
            elif code is _CODES.BRANCH:
                branches, begun = value[1], starts
                starts = 0
                for branch in branches:
                    starts |= self._ends(branch, begun, letters, full)
            elif code in (_CODES.MAX_REPEAT, _CODES.MIN_REPEAT):
                least, most, part = value
                starts = self._repeated(least, most, part, starts, letters, full)
            elif code is _CODES.AT and value in (_CODES.AT_BEGINNING, _CODES.AT_BEGINNING_STRING):
                starts &= 1
            elif code is _CODES.AT and value in (_CODES.AT_END, _CODES.AT_END_STRING):
                starts &= full
            else:
                taken = _letters_of(code, value, letters)
                starts = (starts & sum(letters[letter] for letter in taken)) << 1
        return starts

    def _repeated(self, least: int, most: int, part: Any, starts: int, letters: dict[str, int], full: int) -> int:
        for _ in range(least):
            starts, before = self._ends(part, starts, letters, full), starts
            if starts == before:  # from here on nothing changes
                break
        ends = new = starts
        for _ in range(most - least):
            new = self._ends(part, new, letters, full) & ~ends
            if not new:
                break
            ends |= new
        return ends


def _letters_of(code: Any, value: Any, letters: Iterable[str]) -> list[str]:
    """Those letters that one part of an expression takes.

    Raises:
        re.error: it takes something else than letters.
    """
    if code is _CODES.ANY:
        return [letter for letter in letters if letter != "\n"]
    if code is _CODES.LITERAL:
        return [letter for letter in letters if ord(letter) == value]
    if code is _CODES.NOT_LITERAL:
        return [letter for letter in letters if ord(letter) != value]
    if code is _CODES.RANGE:
        return [letter for letter in letters if value[0] <= ord(letter) <= value[1]]
    if code is _CODES.CATEGORY:
        return [letter for letter in letters if _CATEGORIES[value](letter)]
    if code is _CODES.IN:
        negated = value[0][0] is _CODES.NEGATE
        taken = {letter for part in value[negated:] for letter in _letters_of(part[0], part[1], letters)}
        return [letter for letter in letters if (letter in taken) != negated]
    raise re.error(f"with {str(code).lower()}")
