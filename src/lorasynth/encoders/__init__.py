"""Photos -> condition vector: opening photos safely, and making of them what an encoder wants."""

from lorasynth.encoders.images import open_photo, photo_tensor

__all__ = ["open_photo", "photo_tensor"]
