"""Photos -> condition vector: one protocol for all encoders, one way to name them, and the safe opening of photo files."""

from lorasynth.encoders.embeddings import read_embedding
from lorasynth.encoders.images import open_photo, photo_tensor, to_image, to_square
from lorasynth.encoders.naming import open_encoder
from lorasynth.encoders.protocol import Encoder, Reading, outliers, pool, pool_readings
from lorasynth.encoders.records import describe, difference, same_encoder

__all__ = [
    "Encoder",
    "Reading",
    "describe",
    "difference",
    "open_encoder",
    "open_photo",
    "outliers",
    "photo_tensor",
    "pool",
    "pool_readings",
    "read_embedding",
    "same_encoder",
    "to_image",
    "to_square",
]
