"""A NumPy array of pixels -> a picture: rows by columns by channels, as imageio, OpenCV's RGB and ComfyUI have them."""

import numpy as np
from PIL import Image

from lorasynth.encoders.decoding import check_size
from lorasynth.encoders.refusals import RefusedError

OVERSHOOT, MEAN_OVERSHOOT = 0.5, 0.03
"""How far resampling may leave 0 to 1, anywhere and on average; beyond it, numbers are 0 to 255, -1 to 1, a latent or worse."""
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def from_array(values: np.ndarray) -> Image.Image:
    """A picture with the array's values in 8 bits.

    Args:
        values: (H, W) or (H, W, C) of 1 to 4 channels: grey, grey and alpha, RGB, RGBA. Integers of 8 or 16 bits, or floats
            from 0 to 1; a little less or more, as resampling leaves it, is clipped.

    Raises:
        RefusedError: another shape or type, values that are no picture's, or a size that is none.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise RefusedError(
            "expected an array of pixels, got one with a mask; fill what is masked, by values.filled(255)"
        )
    values = np.asarray(values)  # a matrix has two dimensions whatever is asked of it
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _MODES):
        raise RefusedError(
            f"expected an array of height x width x 1 to 4 channels, got shape {values.shape}; {_advice(values)}"
        )
    check_size(values.shape[1], values.shape[0])
    channels = values.reshape(*values.shape[:2], -1)
    levels = np.ascontiguousarray(_to_8_bits(channels))
    mode = _MODES[levels.shape[2]]
    return Image.fromarray(levels[..., 0] if mode == "L" else levels, mode=mode)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """16 bits as files of 16 bits are read: grey rounded, colours by their upper byte, which is what Pillow takes."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        grey = values.shape[2] == 1
        return grey_of_16_bits(values) if grey else (values >> 8).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise RefusedError(
            f"expected integers of 8 or 16 bits without sign, or floats from 0 to 1, got {values.dtype}; bring the array to uint8"
        )
    low, high = float(values.min()), float(values.max())
    clipped = values.clip(0, 1)
    overshoot = np.abs(clipped - values).mean(dtype=np.float64)
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT and overshoot <= MEAN_OVERSHOOT):  # NaN compares as false
        raise RefusedError(f"expected floats from 0 to 1, got {low:g} to {high:g}; scale the array first")
    return (clipped.astype(np.float32) * np.float32(255)).round().astype(np.uint8)


def grey_of_16_bits(values: np.ndarray) -> np.ndarray:
    """0 to 65535 -> 0 to 255, rounded."""
    return (values.astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8)


def _advice(values: np.ndarray) -> str:
    if values.ndim == 4:
        return "give several photos as a list"
    if values.ndim == 3 and values.shape[0] in _MODES:
        return "give channels last, by values.transpose(1, 2, 0)"
    return "give one picture"
