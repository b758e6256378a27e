"""The file of tables that `bases` reads: made from the models and names, one row for all blocks of a kind.

`python -m lorasynth.lora.base_tables` writes it anew.
"""

import itertools
import json
import re
from typing import Any

from lorasynth.lora.base_models import MODELS
from lorasynth.lora.base_names import table_of
from lorasynth.lora.bases import PATH
from lorasynth.lora.names import natural_order

_NUMBER = re.compile(r"[0-9]+")


def compressed(table: dict[str, Any]) -> list[list[Any]]:
    """Rows of a table by name, those that differ in one running number as one: ``blocks.{0-18}.attn`` and ``{}`` in its value."""
    rows: list[list[Any]] = []
    left = dict(sorted(table.items(), key=lambda item: natural_order(item[0])))
    while left:
        name, value = next(iter(left.items()))
        best = [name]
        for found in _NUMBER.finditer(name):
            first, run = int(found[0]), []
            for number in itertools.count(first):
                other = f"{name[: found.start()]}{number}{name[found.end() :]}"
                if other not in left or left[other] != _moved(value, first, number):
                    break
                run.append(other)
            if len(run) > len(best):
                best, span = run, (found.start(), found.end(), first)
        if len(best) == 1:
            rows.append([name, *value])
        else:
            start, end, first = span
            rows.append([f"{name[:start]}{{{first}-{first + len(best) - 1}}}{name[end:]}", *_moved(value, first, "{}")])
        for name in best:
            del left[name]
    return rows


def _moved(value: Any, first: int, number: int | str) -> Any:
    """A table's value with a block's number in its module names replaced."""
    if isinstance(value, str):
        return re.sub(rf"(blocks|layers|_refiner)\.{first}\.(?!.*blocks\.)", rf"\1.{number}.", value)
    return type(value)(_moved(part, first, number) for part in value) if isinstance(value, tuple | list) else value


def tables() -> dict[str, Any]:
    """The content of `bases.PATH`."""
    made: dict[str, Any] = {}
    for base, variants in MODELS.items():
        for variant in variants:
            shapes, layers = table_of(base, variant)
            rows = {name: [i, o, *(kernel or ())] for name, (i, o, kernel) in shapes.items()}
            made.setdefault(base, {})[variant] = {
                "modules": compressed(rows),
                "layers": compressed(
                    {name: [[m, *map(list, ranges)] for m, ranges in parts] for name, parts in layers.items()}
                ),
            }
    return made


def text_of(made: dict[str, Any]) -> str:
    """The tables as JSON with one row a line."""

    def block(table: Any) -> str:
        if isinstance(table, list):
            return (
                "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in table) + "\n]" if table else "[]"
            )
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {block(value)}" for key, value in table.items()) + "\n}"

    return block(made) + "\n"


if __name__ == "__main__":
    PATH.write_text(text_of(tables()))
