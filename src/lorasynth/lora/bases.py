"""Which modules each known base model has, in which shapes, and under which names programs write them.

The tables in ``bases.json`` are made from diffusers' own models and converters (see `base_tables`) and held against them by
`tests/lora/test_bases.py`. Reading them imports neither torch nor diffusers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("bases.json")

Shape = tuple[int, int, tuple[int, int] | None]
"""(in_features, out_features, kernel): as `layout.Module` has them."""

Parts = tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
"""The modules that a layer of another program is, each with its rows of that layer's output, in order."""

_RANGE = re.compile(r"\{([0-9]+)-([0-9]+)\}")


@dataclass(frozen=True)
class Variant:
    """One model of a base: its modules, and every name that a program has for one of them or for several fused.

    Attributes:
        base: what the project calls it: "sd15", "sdxl", "flux" …
        name: the model, where a base has several: "wan2.1-t2v-14b".
        rows: of the table, "modules" and "layers", blocks of one kind in one row.
    """

    base: str
    name: str
    rows: dict[str, list[list[Any]]] = field(repr=False, compare=False)

    @cached_property
    def modules(self) -> dict[str, Shape]:
        """Diffusers' name -> shape."""
        return {
            m: (i, o, (kernel[0], kernel[1]) if kernel else None)
            for m, (i, o, *kernel) in _expanded(self.rows["modules"])
        }

    @cached_property
    def layers(self) -> dict[str, Parts]:
        """The original code's name, with dots -> its parts."""
        return {
            layer: tuple((module, tuple((first, last) for first, last in ranges)) for module, *ranges in parts)
            for layer, parts in _expanded(self.rows["layers"])
        }

    @cached_property
    def _kinds(self) -> frozenset[str]:
        """Names of modules and layers without numbers, flat. The rows give them in a tenth of the time of all names."""
        return frozenset(kind_of(_RANGE.sub("#", row[0])) for rows in self.rows.values() for row in rows)

    def may_have(self, name: str) -> bool:
        """Whether something in it is called so but for its numbers. Without that, nothing in it has the name itself."""
        return kind_of(name) in self._kinds

    @property
    def is_unet(self) -> bool:
        """Whether it is a UNet, and not a transformer."""
        return any(name == "conv_in" for name, *_ in self.rows["modules"])

    @cached_property
    def flat(self) -> dict[str, str]:
        """A module's name, with dots or with underscores -> the module."""
        return {spelling: name for name in self.modules for spelling in (name, name.replace(".", "_"))}

    @cached_property
    def spelled(self) -> dict[str, Parts]:
        """Every name, with dots or with underscores, that a file may have for a module or a fused layer -> its parts."""
        whole: dict[str, Parts] = {name: ((name, ((0, shape[1]),)),) for name, shape in self.modules.items()}
        dotted = {**self.layers, **whole}
        return {**{name.replace(".", "_"): parts for name, parts in dotted.items()}, **dotted}

    @cached_property
    def _patterns(self) -> frozenset[str]:
        return frozenset(re.sub(r"[0-9]+", "#", name) for name in self.modules)

    def has_name_like(self, name: str) -> bool:
        """Whether one of its modules is called so, but for the numbers of blocks."""
        return re.sub(r"[0-9]+", "#", name) in self._patterns

    def takes(self, modules: Mapping[str, Shape]) -> bool:
        """Whether it has all of these modules, in these shapes."""
        # Most variants have no module of such a name: to see that, no table is filled in.
        return all(map(self.may_have, modules)) and all(
            self.modules.get(name) == shape for name, shape in modules.items()
        )


def _expanded(rows: list[list[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """(name, value) of each row, those of a running number one by one."""
    for name, *value in rows:
        if not (found := _RANGE.search(name)):
            yield name, value
            continue
        for number in range(int(found[1]), int(found[2]) + 1):
            yield f"{name[: found.start()]}{number}{name[found.end() :]}", [_filled(part, number) for part in value]


def _filled(value: Any, number: int) -> Any:
    if isinstance(value, list):
        return [_filled(part, number) for part in value]
    return value.replace("{}", str(number)) if isinstance(value, str) else value


@cache
def kind_of(name: str) -> str:
    """A module's name with underscores for dots and "#" for numbers."""
    return re.sub(r"[0-9]+", "#", name).replace(".", "_")


@cache
def variants() -> tuple[Variant, ...]:
    """Every model of every base."""
    tables = json.loads(PATH.read_text())
    return tuple(Variant(base, name, rows) for base, models in tables.items() for name, rows in models.items())


@cache
def of(base: str) -> tuple[Variant, ...]:
    """The models of one base. None if it has no table."""
    return tuple(variant for variant in variants() if variant.base == base)


def takes(base: str, modules: Mapping[str, Shape]) -> bool:
    """Whether a model of the base has all of these modules, in these shapes."""
    return any(model.takes(modules) for model in of(base))


def fitting(modules: Mapping[str, Shape]) -> list[Variant]:
    """The models that have all of these modules, in these shapes."""
    return [variant for variant in variants() if variant.takes(modules)]


@cache
def _unet_grammar() -> dict[str, str]:
    """Module names of UNets, flat and without numbers -> with dots."""
    names = {re.sub(r"[0-9]+", "#", name) for variant in variants() if variant.is_unet for name in variant.modules}
    return {name.replace(".", "_"): name for name in names}


def unet_name(spelling: str) -> str:
    """Diffusers' name of a module of any UNet, of other depth or width than the known ones too; "" if it is none."""
    for variant in variants():
        if variant.is_unet and variant.may_have(spelling) and len(parts := variant.spelled.get(spelling, ())) == 1:
            return parts[0][0]
    numbers = iter(re.findall(r"[0-9]+", spelling))
    dotted = _unet_grammar().get(re.sub(r"[0-9]+", "#", spelling.replace(".", "_")), "")
    return re.sub("#", lambda _: next(numbers), dotted)
