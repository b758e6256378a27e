"""Weights as they are stored: fp16, and one byte a number for large tables."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lorasynth.storage.schema import Misfit, Shape
from lorasynth.storage.tensorfile import TensorFile

_SCALE = ".row_scale"


def large_tables(state: Mapping[str, Tensor], numbers: int = 1 << 15) -> list[str]:
    """Names of the two-dimensional tensors of a state dict with at least so many numbers."""
    return [name for name, tensor in state.items() if tensor.dim() == 2 and tensor.numel() >= numbers]


def pack(state: Mapping[str, Tensor], tables: Collection[str] = ()) -> dict[str, Tensor]:
    """A state dict as it goes into a file.

    Args:
        state: name -> tensor.
        tables: names of two-dimensional tensors to store as int8 with one scale a row, NAME.row_scale. A number is then off by at
            most 1/254 of the largest of its row: 2 % of the root mean square of a row of principal directions, which is 0.04 % of
            its variance.

    Returns:
        Everything else in fp16, or in fp32 what fp16 cannot hold. What `unpack` gives back packs to the same bytes.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in tables:
            # A scale of 8 significant bits, so that 127 times it is exact and packing again changes nothing.
            scale = (tensor.float().abs().amax(1, keepdim=True) / 127).bfloat16().float()
            packed[name] = (tensor / scale.clamp(min=1e-30)).round().clamp(-127, 127).to(torch.int8)
            packed[name + _SCALE] = scale
        else:
            packed[name] = _half(tensor) if tensor.is_floating_point() else tensor
    return packed


def _half(tensor: Tensor) -> Tensor:
    """In fp16, unless a number is too large for it."""
    half = tensor.half()
    return half if half.isfinite().all() or not tensor.isfinite().all() else tensor.float()


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`, in fp32."""
    plain = {name: t for name, t in tensors.items() if not name.endswith(_SCALE)}
    return {name: t * tensors[name + _SCALE] if name + _SCALE in tensors else t for name, t in plain.items()}


@contextmanager
def without_numbers() -> Iterator[None]:
    """Within it, modules are made of tensors that have shapes and no numbers, to be given a file's."""
    with torch.device("meta"), _Unfilled():
        yield


_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.div}
"""What modules fill their tensors with: random numbers, and their size."""


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors with numbers: on the meta device that would import torch's compiler, which takes seconds."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _FILLS:
            return args[0]
        return function(*args, **(kwargs or {}))


def packed_shapes(file: TensorFile, flags: Collection[str] = ()) -> dict[str, Shape]:
    """The shapes of what `read_packed` will give. Nothing is read.

    Args:
        file: that `pack` wrote.
        flags: names of tensors in uint8; all others are floating point, or tables in int8.

    Raises:
        Misfit: a tensor is of another type, a table in int8 has no scale for each of its rows, or something else has one.
    """
    shapes, dtypes = file.shapes, file.dtypes
    for name, shape in shapes.items():
        if 0 in shape:
            raise Misfit(name, "numbers", f"shape {shape}")
        table = name.removesuffix(_SCALE)
        if table != name and (dtypes.get(table) != torch.int8 or shape != (*shapes[table][:1], 1)):
            raise Misfit(name, "a scale for each row of a table in int8", f"shape {shape}")
        if not dtypes[name].is_floating_point and dtypes[name] != (torch.uint8 if name in flags else torch.int8):
            raise Misfit(name, "floating point numbers, or a table in int8", f"{dtypes[name]}")
        if dtypes[name] == torch.int8 and (len(shape) != 2 or name + _SCALE not in shapes):
            raise Misfit(name, f"a table in int8 with {name}{_SCALE}", f"shape {shape}")
    return {name: shape for name, shape in shapes.items() if not name.endswith(_SCALE)}


def read_packed(file: TensorFile) -> dict[str, Tensor]:
    """The state dict that `pack` wrote into a file, in fp32.

    Raises:
        Misfit: a number is not finite.
    """
    state = unpack(file.read())
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise Misfit(name, "finite numbers", "others")
    return state
