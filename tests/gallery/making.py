"""Pictures that no two seeds share.

NOTE: lorasynth is imported inside functions only; see tests/conftest.py.
"""

import numpy as np
from PIL import Image


def picture(seed, size=(64, 64), mode="RGB"):
    """Smooth noise: no two seeds look alike."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    image = Image.fromarray(small[..., 0] if channels == 1 else small, mode if channels != 1 else "L")
    return image.resize(size, Image.Resampling.BICUBIC)
