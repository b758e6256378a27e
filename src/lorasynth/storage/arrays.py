"""A file's tensors as numpy arrays in the file's own type: no import of torch, and a copy only where numbers are computed with.

numpy has no bfloat16 and no float8. Here they are structured types of one field, whose bits are decoded on demand.
"""

import math
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

if TYPE_CHECKING:
    from torch import Tensor

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16,
    "F8_E4M3": np.dtype([("float8_e4m3fn", "u1")]), "F8_E5M2": np.dtype([("float8_e5m2", "u1")]),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
"""safetensors' name of a type -> numpy's."""
WEIGHTS = (TYPES["F16"], BFLOAT16, TYPES["F32"], TYPES["F64"])
"""Types that a LoRA's factors may have."""
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_SMALL = 1 << 16  # numbers of an array that is looked at together with others

Array = Shaped[np.ndarray, "..."]
"""Numbers of any of `TYPES`."""
_Of = TypeVar("_Of")


def type_name(array: Array) -> str:
    """The type of its numbers in one word, such as "float16" or "bfloat16"."""
    names = array.dtype.names
    return names[0] if names else array.dtype.name


def is_number(array: Array) -> bool:
    """Whether `number` can say it: one entry, of a type that is no truth value and no float8."""
    return array.size == 1 and (array.dtype == BFLOAT16 or array.dtype.kind in "fiu")


def number(array: Array) -> float:
    """The one number of an array."""
    return float(float32(array).reshape(()) if array.dtype == BFLOAT16 else array.reshape(()))


def float32(array: Array) -> Float32[np.ndarray, "..."]:
    """In float32. The array itself if it is that already."""
    if array.dtype == BFLOAT16:
        bits = np.left_shift(array.view(np.uint16), 16, dtype=np.uint32)
        return np.asarray(bits).view(np.float32)
    return array.astype(np.float32, copy=False)


def float64(array: Array) -> Float64[np.ndarray, "..."]:
    """In float64. The array itself if it is that already."""
    return (float32(array) if array.dtype == BFLOAT16 else array).astype(np.float64, copy=False)


def largest_of(array: Array) -> float:
    """The largest absolute value; NaN if there is one. No copy is made of what may be large.

    NOTE: 16-bit types by their bits, whose order is that of the numbers on either side of zero: numpy has no fast way for them.
    """
    if array.dtype.itemsize == 2:
        positive = int(np.maximum.reduce(array.view(np.int16), axis=None))
        negative = int(np.maximum.reduce(array.view(np.uint16), axis=None))
        bits = max(positive, negative - 0x8000).to_bytes(4, "little")
        is_half = array.dtype != BFLOAT16
        return float(struct.unpack("<e", bits[:2])[0] if is_half else struct.unpack("<f", bits[2:] + bits[:2])[0])
    low, high = float(np.minimum.reduce(array, axis=None)), float(np.maximum.reduce(array, axis=None))
    return math.nan if math.isnan(low) else max(-low, high)


def largest_of_each(arrays: Iterable[Array]) -> list[float]:
    """`largest_of` each: the small ones of a type in one pass, as numpy takes microseconds for each call.

    Args:
        arrays: of `WEIGHTS`, none of them empty.
    """
    found: list[float] = []
    together: dict[np.dtype[Any], list[tuple[int, Array]]] = {}
    for i, array in enumerate(arrays):
        found.append(0.0)
        if array.dtype.itemsize == 2 and array.size <= _SMALL:
            together.setdefault(array.dtype, []).append((i, array.view(np.uint16).reshape(-1)))
        else:
            found[i] = largest_of(array)
    for dtype, parts in together.items():
        bits = np.concatenate([part for _, part in parts])
        starts = np.cumsum([0, *(part.size for _, part in parts[:-1])])
        # Without its sign bit, a number's bits are in the order of absolute values, and NaN's are above all.
        largest = np.maximum.reduceat(np.bitwise_and(bits, 0x7FFF, out=bits), starts)
        for (i, _), value in zip(parts, float32(largest.view(dtype)).tolist(), strict=True):
            found[i] = value
    return found


def is_zero(array: Array) -> bool:
    """Whether all numbers are zero."""
    return not array.size or largest_of(array) == 0


def nonzero(array: Array) -> Bool[np.ndarray, "..."]:
    """Which numbers are not zero."""
    return (array.view(np.uint16) & 0x7FFF if array.dtype.itemsize == 2 else array) != 0


def as_tensor(array: Array) -> "Tensor":
    """The same numbers for torch, in the same memory."""
    import torch

    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: "Tensor") -> Array:
    """The same numbers for numpy, in the same memory."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()
