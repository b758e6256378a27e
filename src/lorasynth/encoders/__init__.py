"""Photos -> condition vector: one protocol for all encoders, and the safe opening of photo files."""

from lorasynth.encoders.images import open_photo, photo_tensor, to_image, to_square
from lorasynth.encoders.protocol import Encoder, pool

__all__ = ["Encoder", "open_photo", "photo_tensor", "pool", "to_image", "to_square"]
