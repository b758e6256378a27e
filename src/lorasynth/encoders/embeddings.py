"""An embedding's file -> a unit vector. Nothing in it is run, nor more of it read than it has: .npy, or safetensors."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from lorasynth.errors import PhotoError
from lorasynth.storage.container import read_bytes
from lorasynth.storage.faults import FaultyFileError, printable, shown

MAX_FILE_MB = 1
ENDINGS = (".npy", ".safetensors")
"""How the names of embeddings' files end."""


def read_embedding(path: Path) -> Float[Tensor, " D"]:
    """The one embedding of a file, brought to unit norm.

    Args:
        path: a .npy array, or safetensors with one tensor, of one row of numbers.

    Raises:
        PhotoError: it cannot be read, holds no or several rows, or one without a direction.
    """
    try:
        content = read_bytes(path, max_file_mb=MAX_FILE_MB)
        values = _array(content) if path.suffix.lower() == ".npy" else _only_tensor(content)
    except Exception as error:  # numpy's header is a Python literal, of which its parser raises errors of many classes
        raise PhotoError(f"{shown(path)}: expected an embedding, one row of numbers, got {_words(error)}") from None
    if values.numel() == 0 or values.numel() != max(values.shape, default=0):
        raise PhotoError(
            f"{shown(path)}: expected an embedding, one row of numbers, got shape {tuple(values.shape)}; give one row"
        )
    norm = float(values.norm())
    if not 0 < norm < float("inf"):
        raise PhotoError(f"{shown(path)}: expected an embedding with a direction, got norm {norm}; make it again")
    return values.flatten() / norm


def _array(content: bytes) -> Float[Tensor, "..."]:
    """The numbers of a .npy file, whose header promises no more of them than there are."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "fiu":
        raise ValueError(f"numbers of type {dtype}")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"shape {shape} in a file of {len(content)} bytes")
    return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32))


def _only_tensor(content: bytes) -> Float[Tensor, "..."]:
    tensors = list(load(content).values())
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors")
    return tensors[0].float()


def _words(error: Exception) -> str:
    return printable((error.fault.actual if isinstance(error, FaultyFileError) else str(error)) or type(error).__name__)
