"""The table of adapted modules of one base model: names and shapes <-> slices of one flat vector."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Shaped

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.bases import Shape
from lorasynth.lora.compiled import require_uncompiled
from lorasynth.lora.module import Module as Module
from lorasynth.lora.names import natural_order
from lorasynth.lora.presets import PRESETS
from lorasynth.storage.schema import LINE, Misfit, fit, record, rows, text, whole

# NOTE: looking at a LoRA file asks for no torch, whose import takes ten times as long. So it is imported where models are.
if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module as Network
else:
    Tensor = Network = Any

Factors = dict[str, tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"]]]
"""Module name -> (lora_A, lora_B) of N adapters."""


def _kernel(*sizes: int) -> tuple[int, int] | None:
    """The end of a stored row: nothing for a linear layer, two sizes for a convolution."""
    if not sizes:
        return None
    height, width = sizes
    return int(height), int(width)


_MODULE_NAME = text(300, r"[A-Za-z0-9_.\-]+", "a module's name of at most 300 letters, digits, '_', '.' and '-'")


def _row(value: Any, place: str) -> Any:
    """A stored row's type: name, in, out, rank, and height and width of a convolution's kernel."""
    if not isinstance(value, list) or len(value) not in (4, 6):
        raise Misfit(place, "a row of 4 or 6 entries", value)
    name, *sizes = value
    return [_MODULE_NAME(name, place), *(whole(1, 1 << 31)(size, place) for size in sizes)]


_LAYOUT = record({"base": LINE, "modules": rows(_row, most=16_384)})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The ordered adapted modules of a base model.

    A LoRA of the layout is one flat vector of P numbers: module by module, lora_A (rank, in) and then lora_B (out, rank),
    both row-major, with the scaling folded in.

    The order is always the natural order of the names, whatever order they are given in: the same modules found in a model, in a
    file or in a preset make the same layout, with the same vectors. (It is also the order of weights2weights' vectors.)
    """

    base: str
    modules: tuple[Module, ...]

    def __repr__(self) -> str:
        """In a line: a model's thousand modules would fill a notebook."""
        return f"Layout({self.base!r}, {len(self.modules)} modules, {self.num_parameters:,} numbers)"

    def __post_init__(self) -> None:
        """Sort. Refuse an empty table, doubled names and impossible ranks."""
        object.__setattr__(self, "modules", tuple(sorted(self.modules, key=lambda m: natural_order(m.name))))
        if not self.modules:
            raise LayoutError("a layout needs at least one module, got none; check the target modules")
        names = [m.name for m in self.modules]
        if len(set(names)) != len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise LayoutError(f"module {twice!r} stands twice in the layout; name each module once")
        for m in self.modules:
            if not 1 <= m.rank <= min(m.in_features, m.out_features):
                raise LayoutError(
                    f"{m.name}: expected a rank from 1 to {min(m.in_features, m.out_features)}, got {m.rank}"
                )

    def of_rank(self, rank: int) -> "Layout":
        """The same modules, all of one rank.

        Raises:
            LayoutError: a layer is narrower than that.
        """
        return replace(self, modules=tuple(replace(m, rank=rank) for m in self.modules))

    def of_base(self, base: str) -> "Layout":
        """The same modules, of a base model of another name."""
        return self if base == self.base else replace(self, base=base)

    @cached_property
    def num_parameters(self) -> int:
        """P, the length of a flat vector."""
        return sum(m.num_parameters for m in self.modules)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Module name -> (in_features, out_features, kernel)."""
        return {m.name: (m.in_features, m.out_features, m.kernel) for m in self.modules}

    @cached_property
    def slices(self) -> dict[str, tuple[slice, slice]]:
        """Module name -> the slices of lora_A and lora_B in a flat vector."""
        table, start = {}, 0
        for m in self.modules:
            middle, end = start + m.rank * m.in_features, start + m.num_parameters
            table[m.name] = (slice(start, middle), slice(middle, end))
            start = end
        return table

    @cached_property
    def hash(self) -> str:
        """16 hex digits that name this layout: equal for equal base, names, shapes and order."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The layout as plain JSON values."""
        rows = [[m.name, m.in_features, m.out_features, m.rank, *(m.kernel or ())] for m in self.modules]
        return {"base": self.base, "modules": rows}

    @classmethod
    def from_dict(cls, record: Any) -> "Layout":
        """The inverse of `to_dict`.

        Raises:
            LayoutError: the record has not that form, or its rows stand in another order: vectors stored with it would be cut up
                wrongly.
        """
        try:
            fit(_LAYOUT, record)
            modules = tuple(
                Module(name=name, in_features=i, out_features=o, rank=r, kernel=_kernel(*kernel))
                for name, i, o, r, *kernel in record["modules"]
            )
        except ValueError as error:
            raise LayoutError(
                f"expected a layout with 'base' and rows of (name, in, out, rank[, height, width]): {error}"
            ) from None
        layout = cls(base=record["base"], modules=modules)
        for ours, theirs in zip(layout.modules, modules, strict=True):
            if ours != theirs:
                raise LayoutError(
                    f"expected the modules of a stored layout in natural order, with {ours.name!r} where "
                    f"{theirs.name!r} stands; sort them, and the vectors with them"
                )
        return layout

    @classmethod
    def parse(cls, value: Any, place: str) -> "Layout":
        """`from_dict` where types of values stand. See `lorasynth.storage.schema`.

        Raises:
            Misfit: it is no layout's.
        """
        try:
            return cls.from_dict(value)
        except LayoutError as error:
            raise Misfit(place, f"a layout ({error})", "another value") from None

    @classmethod
    def from_factors(
        cls, factors: dict[str, tuple[Shaped[Any, "R I *kernel"], Shaped[Any, "O R *one"]]], base: str = ""
    ) -> "Layout":
        """The layout of one adapter's factors, a convolution's with its kernel: (R, channels, height, width) and (O, R, 1, 1)."""
        return _of_shapes(tuple((name, tuple(A.shape), len(B)) for name, (A, B) in factors.items()), base)

    @classmethod
    def from_model(cls, model: Network, target_modules: Sequence[str], rank: int, base: str = "") -> "Layout":
        """The layout that PEFT's ``LoraConfig(r=rank, target_modules=...)`` gives ``model``.

        Args:
            model: any module, on the meta device too.
            target_modules: endings of module names, as PEFT matches them: the whole name, or after a dot.
            rank: of every module; a layer narrower than it is an error.
            base: a name for the base model.

        Raises:
            LayoutError: the model is wrapped by torch.compile, nothing matches, or a match is neither a linear layer nor a plain
                2-D convolution.
        """
        from torch import nn

        require_uncompiled(model)
        modules = []
        for name, layer in model.named_modules():
            if not any(name == t or name.endswith("." + t) for t in target_modules):
                continue
            if (module := Module.of(name, layer, rank)) is None:
                got = layer if isinstance(layer, nn.Conv2d) else type(layer).__name__
                raise LayoutError(
                    f"{name}: expected a Linear layer, or a Conv2d without groups and dilation, got {got}; choose other targets"
                )
            modules.append(module)
        if not modules:
            raise LayoutError(f"no module of the model ends in any of {list(target_modules)}; check the target names")
        return cls(base=base, modules=tuple(modules))

    @classmethod
    def preset(cls, name: str, rank: int = 1) -> "Layout":
        """A named layout. `presets.PRESETS` lists them.

        Raises:
            UsageError: no preset has that name.
        """
        if name not in PRESETS:
            raise UsageError(f"expected a layout preset among {sorted(PRESETS)}, got {name!r}")
        modules = tuple(
            Module(name=name, in_features=i, out_features=o, rank=rank, kernel=kernel)
            for name, (i, o, kernel) in PRESETS[name].shapes().items()
        )
        return cls(base=PRESETS[name].base, modules=modules)

    def diff(self, other: "Layout") -> list[str]:
        """How ``other`` differs from this layout, a sentence a difference (an empty list for none)."""
        said = [] if self.base == other.base else [f"base is {other.base!r}, expected {self.base!r}"]
        mine, theirs = {m.name: m for m in self.modules}, {m.name: m for m in other.modules}
        said += [f"{name} is missing" for name in mine if name not in theirs]
        said += [f"{name} is not expected" for name in theirs if name not in mine]
        for name in mine.keys() & theirs.keys():
            a, b = mine[name], theirs[name]
            if a != b:
                if a.kernel == b.kernel:
                    said.append(
                        f"{name} is {b.in_features} -> {b.out_features} rank {b.rank}, "
                        f"expected {a.in_features} -> {a.out_features} rank {a.rank}"
                    )
                else:
                    said.append(f"{name} is {b} rank {b.rank}, expected {a} rank {a.rank}")
        return sorted(said)

    def split(self, vectors: Float[Tensor, "N P"]) -> Factors:
        """Flat vectors -> factors, as views.

        Raises:
            LayoutError: the vectors have another length.
        """
        if vectors.shape[-1] != self.num_parameters:
            raise LayoutError(
                f"expected vectors of {self.num_parameters} numbers for layout {self.base!r}, got {vectors.shape[-1]}"
            )
        n = len(vectors)
        return {
            m.name: (
                vectors[:, a].reshape(n, m.rank, m.in_features),
                vectors[:, b].reshape(n, m.out_features, m.rank),
            )
            for m, (a, b) in ((m, self.slices[m.name]) for m in self.modules)
        }

    def join(self, factors: Factors) -> Float[Tensor, "N P"]:
        """Factors -> flat vectors: the inverse of `split`."""
        import torch

        return torch.cat([part.flatten(1) for m in self.modules for part in factors[m.name]], dim=1)


# NOTE: remembered, as files of a folder mostly have one layout, whose sorting and hash take longer than looking it up.
@lru_cache(8)
def _of_shapes(shapes: tuple[tuple[str, tuple[int, ...], int], ...], base: str) -> Layout:
    """The layout of modules by name, shape of lora_A and rows of lora_B."""
    modules = tuple(
        Module(name=name, in_features=math.prod(A[1:]), out_features=out, rank=A[0], kernel=_kernel(*A[2:]))
        for name, A, out in shapes
    )
    return Layout(base=base, modules=modules)
