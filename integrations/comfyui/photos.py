"""ComfyUI's IMAGE -> the pictures that lorasynth takes, with the values of the file that LoadImage read."""

import torch
from PIL import Image

from lorasynth.encoders.arrays import OVERSHOOT
from lorasynth.encoders.images import open_photo
from lorasynth.errors import PhotoError


def to_photos(image: torch.Tensor) -> list[Image.Image]:
    """One RGB picture for each image of the batch.

    Args:
        image: (B, H, W, 3), 0 to 1. A little less or more, as resampling leaves it, is clipped as ComfyUI's own nodes do.

    Raises:
        PhotoError: another shape, values that are no picture's, or a size that no photo file may have.
    """
    if image.dim() != 4 or image.shape[-1] != 3 or not image.numel():
        raise PhotoError(
            f"expected an IMAGE of shape (B, H, W, 3), got {tuple(image.shape)}; "
            "give the output of Load Image, without its alpha channel"
        )
    low, high = image.min().item(), image.max().item()
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # NaN compares as false
        raise PhotoError(f"expected an IMAGE with values from 0 to 1, got {low:g} to {high:g}; scale it first")
    return [open_photo(picture) for picture in image.float().cpu().numpy()]
