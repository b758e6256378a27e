"""Bytes of a JPEG, PNG or WebP -> the decoded picture, in bounded time and memory.

What a decoder would work on for long is counted first: pixels, frames, a JPEG's scans and segments, a PNG's chunks. Plugins of
Pillow are called by name, so that no other format's reader is ever tried.
"""

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lorasynth.encoders.colour import CICP
from lorasynth.encoders.headers import PHOTO_FORMATS, file_format, picture_size
from lorasynth.encoders.jpeg import inspect_jpeg
from lorasynth.encoders.orientation import orientation_of, orientation_of_info
from lorasynth.encoders.refusals import DamagedError, RefusedError

MIN_SIDE, MAX_SIDE = 48, 16_384
"""Pixels, as decoded; in a smaller picture a face is a blur."""
MAX_ASPECT = 4
MAX_MEGAPIXELS = 64
"""As decoded; a 50-megapixel phone's photo passes as it is."""
MAX_JPEG_MEGAPIXELS = 200
"""Of a JPEG, decoded at half its width and height above `MAX_MEGAPIXELS`: the largest sensors have as many."""
MAX_CHUNKS = 100_000
"""Of a PNG; encoders write some 8 KB into each."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A picture as its file stores it, before it is brought upright and into sRGB."""

    picture: Image.Image
    orientation: int
    original_size: tuple[int, int]  # before a JPEG was read at half its size


def decode(content: bytes) -> Decoded:
    """Decode a still picture.

    Raises:
        RefusedError: it is of another format, has too many pixels, several frames, or is made to keep a decoder busy.
        DamagedError: it is damaged or cut off.
    """
    format = file_format(content)
    if format not in PHOTO_FORMATS:
        raise RefusedError(f"expected JPEG, PNG or WebP, got {format}; give the picture in one of these formats")
    try:
        size = picture_size(content, format)
        check_size(*size, halved=format == "JPEG")
        # NOTE: on damaged input Pillow's readers raise errors of any class, and warn of broken metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture, orientation = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[format](content, size)
    except RefusedError:
        raise
    except MemoryError:
        raise RefusedError(f"not enough memory for {size[0]} x {size[1]} pixels; shrink the picture") from None
    except Exception as error:
        raise DamagedError(f"damaged or cut off {format} ({_reason(error)}); get the file again") from None
    return Decoded(picture=picture, orientation=orientation, original_size=size)


def check_size(width: int, height: int, *, halved: bool = False) -> None:
    """Whether a picture may be decoded, by what its header claims.

    Args:
        width: pixels.
        height: pixels.
        halved: whether it can be read at half its size.

    Raises:
        RefusedError: it has too many pixels, too few for a face, or is a strip.
    """
    got = f"got {width} x {height}"
    most, longest = (MAX_JPEG_MEGAPIXELS, 2 * MAX_SIDE) if halved else (MAX_MEGAPIXELS, MAX_SIDE)
    if max(width, height) > longest or width * height > most * 1_000_000:
        raise RefusedError(f"expected at most {most} megapixels and {longest} pixels a side, {got}; shrink the picture")
    if min(width, height) < MIN_SIDE:
        raise RefusedError(f"expected at least {MIN_SIDE} pixels a side, {got}; give a larger picture")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RefusedError(f"expected sides of at most {MAX_ASPECT} to 1, {got}; crop it to the face")


def is_huge(width: int, height: int) -> bool:
    """Whether a photo is read at half its width and height."""
    return max(width, height) > MAX_SIDE or width * height > MAX_MEGAPIXELS * 1_000_000


def check_still(picture: Image.Image) -> None:
    """Whether a picture is one, and not an animation.

    Raises:
        RefusedError: it has several frames.
    """
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise RefusedError(f"expected a still photo, got {frames} frames; give one of them as a picture")


def _jpeg(content: bytes, size: tuple[int, int]) -> tuple[Image.Image, int]:
    """A JPEG of several frames is a phone's (MPO): its first frame is the photo."""
    jpeg = inspect_jpeg(content)
    picture = JpegImageFile(io.BytesIO(jpeg.content))
    _check_same(picture, size)
    if is_huge(*size):
        picture.draft(None, (size[0] // 2, size[1] // 2))
    picture.load()
    return picture, orientation_of(jpeg.exif, jpeg.xmp)


def _png(content: bytes, size: tuple[int, int]) -> tuple[Image.Image, int]:
    colours = _check_chunks(content)
    picture, orientation = _load(PngImageFile(io.BytesIO(content)), size)
    if colours is not None:
        picture.info[CICP] = colours
    return picture, orientation


def _webp(content: bytes, size: tuple[int, int]) -> tuple[Image.Image, int]:
    return _load(WebPImageFile(io.BytesIO(content)), size)


def _load(picture: ImageFile.ImageFile, size: tuple[int, int]) -> tuple[Image.Image, int]:
    check_still(picture)
    _check_same(picture, size)
    picture.load()
    # NOTE: Pillow gives a palette PNG without its palette grey values, or an AssertionError later on.
    if picture.mode == "P" and not (picture.palette and picture.palette.palette):
        raise ValueError("the palette is missing")
    return picture, orientation_of_info(picture.info)


def _check_same(picture: Image.Image, size: tuple[int, int]) -> None:
    if picture.size != size:
        raise ValueError(f"its header says {size[0]} x {size[1]}, its data {picture.size}")


def _check_chunks(content: bytes) -> tuple[int, int] | None:
    """Walk a PNG's chunks, W3C PNG 5.3: a length, four letters, so many bytes and a checksum.

    Returns:
        The primaries and the transfer function that a cICP chunk states (11.3.2.6), which Pillow passes over.
    """
    at, colours = 8, None
    for _ in range(MAX_CHUNKS):
        kind = content[at + 4 : at + 8]
        if at + 8 > len(content) or kind == b"IEND":
            return colours
        if kind == b"cICP" and at + 10 <= len(content):
            colours = content[at + 8], content[at + 9]
        at += 12 + struct.unpack_from(">I", content, at)[0]
    raise RefusedError(f"expected a PNG of at most {MAX_CHUNKS} chunks, got more; save the picture anew")


def _reason(error: Exception) -> str:
    """An error of a reader in one line: some have no words, others several lines."""
    return " ".join(str(error).split()) or type(error).__name__
