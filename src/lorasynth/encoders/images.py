"""Photo files of unknown origin -> upright RGB pictures, or one line that says what is wrong with the file.

Checked in this order, so that nothing is decoded before it is known to be small: kind of file, bytes, format by content, pixels
by header, frames. Colour profiles are not applied: values are taken as sRGB.
"""

import io
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.headers import PHOTO_FORMATS, file_format, picture_size
from lorasynth.errors import PhotoError, UsageError

MAX_FILE_MB = 64
MAX_MEGAPIXELS = 64
"""A 50-megapixel phone's photo passes."""
MIN_SIDE, MAX_SIDE = 48, 16_384
"""Pixels; in a smaller picture a face is a blur."""
MAX_ASPECT = 4

_EXIF_ORIENTATION = 0x0112
# What brings a picture upright, by EXIF orientation (CIPA DC-008, 4.6.4 A); 1 is upright, other values mean nothing.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_photo(path: str | Path) -> Image.Image:
    """Open a JPEG, PNG or WebP as it is meant to be seen: upright, RGB, transparent parts on white, 8 bits.

    Args:
        path: of the file; its name's ending is not looked at.

    Returns:
        A picture in mode RGB, with no metadata of the file.

    Raises:
        PhotoError: the file is missing, empty, of another format, too large, too small, animated or damaged.
    """
    name = str(path) if str(path).isprintable() else ascii(str(path))
    content = _read(Path(path), name)
    format = file_format(content)
    if format not in PHOTO_FORMATS:
        raise PhotoError(f"{name}: expected JPEG, PNG or WebP, got {format}; give the picture in one of these formats")
    try:
        width, height = picture_size(content, format)
    except ValueError as error:
        raise PhotoError(f"{name}: damaged or cut off {format} ({error}); get the file again") from None
    _check_size(name, width, height)
    # NOTE: on damaged input Pillow's readers raise errors of any class, and warn of broken EXIF that is not used here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(content), formats=[format])
            # A JPEG of several frames is a phone's (MPO): its first frame is the photo.
            num_frames = 1 if format == "JPEG" else getattr(picture, "n_frames", 1)
            same_size = picture.size == (width, height)
            if same_size and num_frames == 1:
                picture.load()
        except Exception as error:
            raise PhotoError(f"{name}: damaged or cut off {format} ({error}); get the file again") from None
        if num_frames > 1:
            raise PhotoError(f"{name}: expected a still photo, got {num_frames} frames; give one of them as a picture")
        if not same_size:
            raise PhotoError(f"{name}: its header says {width} x {height}, its data {picture.size}; get the file again")
        orientation = _orientation(picture)
    upright = _to_rgb(picture)
    return upright.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else upright


def to_square(image: Image.Image, size: int) -> Image.Image:
    """The largest square about the centre, resampled to ``size`` pixels a side.

    Means of areas where it shrinks to half or less, bicubic otherwise. A square of the right size keeps its values.

    Raises:
        UsageError: ``size`` is below 1.
    """
    if size < 1:
        raise UsageError(f"expected a size of at least 1 pixel, got {size}; give the encoder's image_size")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side == size:
        return square
    return square.resize((size, size), Image.Resampling.BOX if side >= 2 * size else Image.Resampling.BICUBIC)


def photo_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 S S"]:
    """The central square of an RGB image at ``size`` pixels, in [0, 1]."""
    values = np.asarray(to_square(image, size), dtype=np.float32) / 255
    return torch.as_tensor(values).permute(2, 0, 1).contiguous()


def to_image(picture: Float[Tensor, "3 H W"]) -> Image.Image:
    """A picture in [0, 1] as an 8-bit image."""
    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _read(path: Path, name: str) -> bytes:
    """The bytes of a regular file that is not too large; nothing else is opened, for a pipe would wait for ever."""
    limit = MAX_FILE_MB * 1_000_000
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something that is not a regular file"
            raise PhotoError(f"{name}: expected a photo, got {kind}; give the picture file itself")
        if status.st_size > limit:
            megabytes = status.st_size / 1e6
            raise PhotoError(f"{name}: expected at most {MAX_FILE_MB} MB, got {megabytes:.0f} MB; shrink the picture")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise PhotoError(f"{name}: expected a photo, got no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PhotoError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None
    if not content:
        raise PhotoError(f"{name}: expected a photo, got an empty file; get the file again")
    if len(content) > limit:
        raise PhotoError(f"{name}: grew beyond {MAX_FILE_MB} MB while it was read; give a file that is finished")
    return content


def _check_size(name: str, width: int, height: int) -> None:
    got = f"got {width} x {height}"
    if max(width, height) > MAX_SIDE or width * height > MAX_MEGAPIXELS * 1_000_000:
        raise PhotoError(
            f"{name}: expected at most {MAX_MEGAPIXELS} megapixels and {MAX_SIDE} pixels a side, {got}; shrink the picture"
        )
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"{name}: expected at least {MIN_SIDE} pixels a side, {got}; give a larger picture")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(f"{name}: expected sides of at most {MAX_ASPECT} to 1, {got}; crop it to the face")


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or it cannot be read, as every viewer does."""
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # garbage in EXIF, of which Pillow raises many classes; the picture itself is whole
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode that the three formats decode to -> RGB of 8 bits, what is transparent on white."""
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip: 300 -> 255
        grey = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    rgb = picture.convert("RGB")
    rgb.info.clear()  # `convert` gives a copy, with the file's EXIF and text in it
    return rgb
