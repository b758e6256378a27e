"""What a value read from a file has to be: small types that name the first thing that is otherwise.

    SETTINGS = record(optional={"scale": number(0, 20), "num_inference_steps": whole(1, 1000)})
    CONFIG = record({"format": one_of(1), "settings": table(NAME, SETTINGS, most=64)}, rest=ANYTHING)
    fit(CONFIG, value)          # Misfit: settings.adalora.scale: expected a number from 0 to 20, got 99

A type is a function from a value and its place to the value, so that types are made of types. Shapes of tensors are written as
letters, and `dimensions` finds what each letter stands for: ``{"weight": "Z D", "bias": "Z"}``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lorasynth.storage.faults import printable

Type = Callable[[Any, str], Any]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_ABSENT = object()


class Misfit(ValueError):
    """A value is not what its place asks for. The message says where, "expected ..., got ..."."""

    def __init__(self, place: str, expected: str, got: Any):
        got = "nothing" if got is _ABSENT else _shown(got)
        super().__init__(f"{printable(place) + ': ' if place else ''}expected {expected}, got {got}")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return ("an object" if isinstance(value, dict) else "a list") if value else repr(value)
    return printable(repr(value) if isinstance(value, str) else str(value), 60)


def fit(kind: Type, value: Any, place: str = "") -> Any:
    """The value, if it is of this type.

    Raises:
        Misfit: it is not.
    """
    return kind(value, place)


def text(most: int = 1_000, pattern: str | None = None, called: str = "") -> Type:
    """Text of at most so many letters, in Unicode, and of a pattern if one is given."""
    expected = called or f"text of at most {most} letters"

    def check(value: Any, place: str) -> str:
        if not isinstance(value, str) or len(value) > most or re.search("[\0\ud800-\udfff]", value):
            raise Misfit(place, expected, value)
        if pattern is not None and not re.fullmatch(pattern, value):
            raise Misfit(place, expected, value)
        return value

    return check


NAME = text(64, r"[A-Za-z0-9][A-Za-z0-9_-]*", "a name of at most 64 letters, digits, '-' and '_'")
"""What may become a file's name: no path, no dots."""
LINE = text(4_096, r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", "a line of text")
"""Text that is safe to show: without line ends, escapes and other control characters."""
SHA256 = text(64, r"[0-9a-f]{64}", "a sha256 in hex")


def whole(least: int, most: int) -> Type:
    """A whole number within bounds. True is none."""

    def check(value: Any, place: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Misfit(place, f"a whole number from {least} to {most}", value)
        return value

    return check


def number(least: int | float, most: int | float) -> Type:
    """A finite number within bounds, whole or not."""

    def check(value: Any, place: str) -> int | float:
        if type(value) not in (int, float) or not least <= value <= most:
            raise Misfit(place, f"a number from {least:g} to {most:g}", value)
        return value

    return check


def digits(kind: Type, most: int = 40) -> Type:
    """A number that stands as text, as in a safetensors file's header."""

    def check(value: Any, place: str) -> Any:
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9.eE+-]{{1,{most}}}", value):
            raise Misfit(place, "a number", value)
        try:
            found: int | float = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise Misfit(place, "a number", value) from None
        return kind(found, place)

    return check


def one_of(*values: Any) -> Type:
    """One of some values, of the same type."""

    def check(value: Any, place: str) -> Any:
        if not any(type(value) is type(each) and value == each for each in values):
            raise Misfit(place, " or ".join(map(repr, values)), value)
        return value

    return check


def ANYTHING(value: Any, place: str) -> Any:
    """Any value that JSON has."""
    return value


def figures(depth: int) -> Type:
    """What was measured: a finite number, or an object of such, so many deep at most."""
    plain = number(-1e300, 1e300)

    def check(value: Any, place: str) -> Any:
        deeper = depth > 0 and isinstance(value, dict)
        return (table(text(200), figures(depth - 1), most=10_000) if deeper else plain)(value, place)

    return check


def rows(kind: Type, most: int) -> Type:
    """A list of so many values of a type, at most."""

    def check(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise Misfit(place, f"a list of at most {most} entries", value)
        return [kind(each, f"{place}[{number}]") for number, each in enumerate(value)]

    return check


def table(keys: Type, values: Type, most: int = 1_000) -> Type:
    """An object of so many entries at most, whose keys are of one type and values of another."""

    def check(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise Misfit(place, f"an object of at most {most} entries", value)
        return {keys(key, f"{place}, a key"): values(each, _in(place, key)) for key, each in value.items()}

    return check


def record(
    fields: Mapping[str, Type] | None = None, *, optional: Mapping[str, Type] | None = None, rest: Type | None = None
) -> Type:
    """An object with these fields.

    Args:
        fields: that have to be there.
        optional: that may be there.
        rest: the type of all others; None where there may be none.
    """
    fields, optional = fields or {}, optional or {}
    known = {**fields, **optional}

    def check(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(place, "an object", value)
        for name in fields:
            if name not in value:
                raise Misfit(_in(place, name), "a value", _ABSENT)
        for name in value:
            if name not in known and rest is None:
                raise Misfit(place, f"fields among {sorted(known)}", name)
        return {name: known.get(name, rest)(each, _in(place, name)) for name, each in value.items()}  # type: ignore[misc]

    return check


def _in(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def dimensions(shapes: Shapes, pattern: Mapping[str, str], **known: int) -> dict[str, int]:
    """What the letters of a pattern stand for in the shapes of tensors.

    Args:
        shapes: name -> shape; has to have the pattern's names and no others.
        pattern: name -> its sizes with spaces between, letters or numbers, such as "Z D"; "" is a single number.
        **known: letters whose size is known already.

    Raises:
        Misfit: a tensor is missing or one too many, or has another shape.
    """
    require_names(shapes, pattern)
    sizes = dict(known)
    for name, letters in pattern.items():
        wanted = letters.split()
        if len(wanted) != len(shapes[name]):
            raise Misfit(name, f"shape ({', '.join(wanted)})", shapes[name])
        for letter, size in zip(wanted, shapes[name], strict=True):
            if (expected := int(letter) if letter.isdecimal() else sizes.setdefault(letter, size)) != size:
                raise Misfit(name, f"shape ({', '.join(wanted)}) with {letter} = {expected}", shapes[name])
    return sizes


def require_shapes(shapes: Shapes, expected: Shapes) -> None:
    """Check that tensors are these, of these shapes.

    Raises:
        Misfit: one is missing, or one too many, or has another shape.
    """
    require_names(shapes, expected)
    for name, shape in expected.items():
        if tuple(shapes[name]) != tuple(shape):
            raise Misfit(name, f"shape {tuple(shape)}", shapes[name])


def require_names(shapes: Shapes, expected: Mapping[str, Any]) -> None:
    """Check that tensors have these names.

    Raises:
        Misfit: one is missing, or one too many.
    """
    if missing := sorted(expected.keys() - shapes.keys()):
        raise Misfit(missing[0], "a tensor", _ABSENT)
    if more := sorted(shapes.keys() - expected.keys()):
        raise Misfit(more[0], "no such tensor", shapes[more[0]])


def size_of(shapes: Shapes, name: str, axis: int) -> int:
    """One size of one tensor.

    Raises:
        Misfit: there is none.
    """
    if name not in shapes or len(shapes[name]) <= axis:
        raise Misfit(name, f"a tensor of {axis + 1} or more dimensions", shapes.get(name, _ABSENT))
    return shapes[name][axis]


def numbered(names: Sequence[str] | Shapes, prefix: str) -> int:
    """How many numbers stand behind a prefix in names, as in "blocks.0.bias", "blocks.1.bias": 2.

    Raises:
        Misfit: they do not run from 0 on.
    """
    found = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    if found != {str(number) for number in range(len(found))}:
        raise Misfit(f"{prefix}*", f"numbers from 0 to {len(found) - 1}", ", ".join(sorted(found)))
    return len(found)
