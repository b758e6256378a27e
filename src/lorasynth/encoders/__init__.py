"""Photos -> condition vector: one protocol for all encoders, and the safe opening of photo files."""

from importlib import import_module
from typing import Any

from lorasynth.encoders.embeddings import read_embedding
from lorasynth.encoders.images import Photo, open_photo, photo_tensor, read_photo, to_image, to_square
from lorasynth.encoders.protocol import Encoder, Reading, outliers, pool, pool_readings, read_all, read_each
from lorasynth.encoders.records import describe, difference, same_encoder

__all__ = [
    "Encoder",
    "Photo",
    "Reading",
    "describe",
    "difference",
    "open_photo",
    "outliers",
    "photo_tensor",
    "pool",
    "pool_readings",
    "read_all",
    "read_each",
    "read_embedding",
    "read_photo",
    "same_encoder",
    "to_image",
    "to_square",
]


def __getattr__(name: str) -> Any:
    """The older place of `open_encoder`, for scripts: it opens drawn worlds' encoders too, which stand above this package."""
    if name == "open_encoder":
        return import_module("lorasynth.opening").open_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
