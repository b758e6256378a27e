"""Is this still the same data? A digest of tensors says so."""

import hashlib

import torch
from torch import Tensor


def fingerprint(*tensors: Tensor) -> str:
    """16 hex digits that change with any byte, shape or type of the tensors: "is this still the same data?"."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
