"""Photos -> condition vector: one protocol for all encoders, and the safe opening of photo files."""

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
