"""What can be wrong with a LoRA file, said in one way everywhere: file, key, expected, actual, what to do."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorasynth.errors import LoRAFileError


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong in a file. ``code`` is stable. With ``fatal`` the file is refused, otherwise it is only worth knowing.

    Texts may come from the file itself, so whatever is not printable is escaped and long ones are cut.
    """

    code: str
    key: str
    expected: str
    actual: str
    fix: str
    fatal: bool = True

    def __post_init__(self) -> None:
        """Make the texts safe to print."""
        for name in ("key", "expected", "actual", "fix"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}, got {self.actual}. Fix: {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class FaultyFileError(LoRAFileError):
    """The first fatal fault of a file, as an error. ``code`` is the fault's."""

    def __init__(self, fault: Fault, path: str | Path | None = None, more: int = 0):
        rest = f" ({more} more: `lorasynth inspect` lists them)" if more else ""
        super().__init__(f"{f'{shown(path)}: ' if path else ''}{fault}{rest}")
        self.fault, self.code = fault, fault.code


def printable(text: str, limit: int = 200) -> str:
    """``text`` on one line without control characters, cut after ``limit``."""
    safe = text[: limit + 1]
    if not safe.isprintable():
        safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in safe)
    return safe if len(text) <= limit else safe[:limit] + "…"


def shown(path: str | Path) -> str:
    """A file's name as a message may hold it: names can have line ends and escapes in them too."""
    return printable(str(path), limit=4_096)


def refuse(code: str, key: str, expected: str, actual: str, fix: str) -> FaultyFileError:
    """A fatal fault as an error to raise. Whoever knows the file's name adds it."""
    return FaultyFileError(Fault(code=code, key=key, expected=expected, actual=actual, fix=fix))


def note(code: str, key: str, expected: str, actual: str, fix: str) -> Fault:
    """Legal, but whoever uses the file should know."""
    return Fault(code=code, key=key, expected=expected, actual=actual, fix=fix, fatal=False)
