"""Photos -> condition vector: one protocol for all encoders, and the safe opening of photo files."""

from lorasynth.encoders.images import open_photo, photo_tensor, to_image, to_square
from lorasynth.encoders.protocol import Encoder, Reading, ReadingEncoder, outliers, pool, pool_readings

__all__ = [
    "Encoder",
    "Reading",
    "ReadingEncoder",
    "open_photo",
    "outliers",
    "photo_tensor",
    "pool",
    "pool_readings",
    "to_image",
    "to_square",
]
