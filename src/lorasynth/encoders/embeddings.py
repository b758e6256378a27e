"""An embedding's file -> a unit vector. Nothing in it is run: .npy without pickle, or safetensors."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorasynth.errors import LoRAFileError, PhotoError
from lorasynth.lora.container import read_bytes

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
        if path.suffix == ".npy":
            values = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        else:
            (values,) = load(read_bytes(path, max_file_mb=1)).values()
            values = values.float()
    except (OSError, EOFError, ValueError, SafetensorError, LoRAFileError) as error:
        raise PhotoError(f"{path}: expected an embedding, one row of numbers, got {error}") from None
    if values.numel() == 0 or values.numel() != max(values.shape, default=0):
        raise PhotoError(
            f"{path}: expected an embedding, one row of numbers, got shape {tuple(values.shape)}; give one row"
        )
    norm = float(values.norm())
    if not 0 < norm < float("inf"):
        raise PhotoError(f"{path}: expected an embedding with a direction, got norm {norm}; make it again")
    return values.flatten() / norm
