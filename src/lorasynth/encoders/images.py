"""One door for photos: a file's name, its bytes, an array or a Pillow image -> an upright sRGB picture, or one line why not.

All photos take the same steps: format by content, size by header, decoding in bounded time, depth to 8 bits, colour profile to
sRGB, transparent parts on white, upright by EXIF. A picture that took them takes them again unchanged.
"""

import math
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFile
from torch import Tensor

from lorasynth.encoders.arrays import from_array, grey_of_16_bits
from lorasynth.encoders.colour import to_srgb
from lorasynth.encoders.decoding import (
    Decoded,
    check_size,
    check_still,
    decode,
    is_huge,
)
from lorasynth.encoders.orientation import ORIENTATION, upright
from lorasynth.encoders.refusals import DamagedError, RefusedError
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import PhotoError, UsageError

MAX_FILE_MB = 64


@runtime_checkable
class Readable(Protocol):
    """A file opened for reading bytes, or what behaves as one."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes."""
        ...


Photo = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | np.ndarray | Image.Image
"""What is taken for one photo: a file's name, its bytes, an open file, an array (H, W, C), a Pillow image."""
_BYTES = (bytes, bytearray, memoryview)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedPhoto:
    """A photo as it is meant to be seen: mode RGB, upright, sRGB, no metadata; and remarks on what was unusual about it."""

    image: Image.Image
    notes: tuple[Remark, ...]


def open_photo(photo: Photo) -> Image.Image:
    """The picture of `read_photo` alone.

    Raises:
        PhotoError: it cannot be used.
    """
    return read_photo(photo).image


def read_photo(photo: Photo, name: str | None = None) -> OpenedPhoto:
    """Open a photo as it is meant to be seen: upright, RGB of 8 bits in sRGB, transparent parts on white.

    Args:
        photo: a JPEG, PNG or WebP file by name (the name's ending is not looked at), bytes or open file; an array of height x
            width x channels, integers of 8 or 16 bits or floats from 0 to 1; or a Pillow image in any mode of 8 or 16 bits.
        name: what to call it in messages; by default its path, or "photo".

    Raises:
        PhotoError: it is missing, empty, of another format, too large, too small, animated or damaged.
    """
    name = photo_name(photo) if name is None else name
    try:
        return _finish(_decoded(photo))
    except (RefusedError, DamagedError) as error:
        raise PhotoError(f"{name}: {error}") from None


def photo_name(photo: Photo, number: int = 1, count: int = 1) -> str:
    """What to call a photo in messages: its path, else "photo" or, of several, "photo 2 of 3"."""
    if isinstance(photo, (str, os.PathLike)):
        path = os.fspath(photo)
        return path if path and path.isprintable() else ascii(path)
    return "photo" if count == 1 else f"photo {number} of {count}"


def is_photo(value: object) -> TypeGuard[Photo]:
    """Whether a value is one photo, and not a list of some."""
    one_array = isinstance(value, np.ndarray) and value.ndim <= 3
    return one_array or isinstance(value, (str, os.PathLike, *_BYTES, Image.Image, Readable))


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


def _decoded(photo: Photo) -> Decoded:
    """Any photo's picture as it is stored, with its orientation."""
    if isinstance(photo, str) and not photo:
        raise RefusedError("expected a file's name, got an empty one; name the picture")
    if isinstance(photo, (str, os.PathLike)):
        return decode(_read_file(Path(photo)))
    if isinstance(photo, _BYTES):
        return decode(_checked(bytes(photo)))
    if isinstance(photo, np.ndarray):
        picture = from_array(photo)
        return Decoded(picture=picture, orientation=1, original_size=picture.size)
    if isinstance(photo, Image.Image):
        content = _unread_file(photo)
        return decode(content) if content is not None else _of_image(photo)
    if isinstance(photo, Readable):
        content = _from_system(lambda: photo.read(_MAX_BYTES + 1))
        if isinstance(content, bytes):
            return decode(_checked(content))
    raise RefusedError(
        f"expected a file's name, bytes, an array or a Pillow image, got {type(photo).__name__}; give one of these"
    )


def _unread_file(image: Image.Image) -> bytes | None:
    """The bytes of the file behind an image that Pillow has opened and not yet decoded, or None.

    Pillow decodes when pixels are asked for. The limits of this package hold only if that is left to it.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format not in ("JPEG", "MPO", "PNG", "WEBP"):
        return None
    file = image.fp
    if file is None or not image.tile or image.tell() != 0 or getattr(image, "decoderconfig", False):
        return None

    def read() -> bytes:
        at = file.tell()
        file.seek(0)
        content = file.read(_MAX_BYTES + 1)
        file.seek(at)
        return content

    return _checked(_from_system(read))


def _of_image(image: Image.Image) -> Decoded:
    """A Pillow image, as far as it is decoded already or its format is no photo file's."""
    check_size(*image.size, halved=True)
    if image.format not in ("JPEG", "MPO"):
        check_still(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
        except Exception as error:  # Pillow's readers raise errors of any class
            if "closed image" in str(error):
                raise RefusedError("expected an open image, got one that was closed; open it again") from None
            raise DamagedError(f"damaged or cut off ({' '.join(str(error).split())}); get the file again") from None
        try:
            orientation = int(image.getexif().get(ORIENTATION, 1))
        except Exception:  # garbage in EXIF; the picture itself is whole
            orientation = 1
    return Decoded(picture=image, orientation=orientation, original_size=image.size)


def _finish(decoded: Decoded) -> OpenedPhoto:
    """The steps that all photos take once they are decoded."""
    picture, notes = decoded.picture, []
    width, height = decoded.original_size
    if is_huge(width, height):
        notes.append(Remark("reduced", f"of {width} x {height} pixels, it was read at half its width and height"))
    try:
        # 1. Depth: 16 bits to 8.
        picture = _to_8_bits(picture)
        # 2. Colours to sRGB.
        rgb, about_colours = to_srgb(picture)
        if about_colours:
            notes.append(Remark("colour-profile", about_colours))
        # 3. What is transparent onto white.
        if picture.has_transparency_data:
            rgb = _on_white(rgb, picture.convert("RGBA").getchannel("A"))
        # 4. Half the size, where the decoder could not do it.
        if is_huge(*rgb.size):
            rgb = rgb.reduce(2)
    except RefusedError:
        raise
    except Exception as error:  # a palette PNG without its palette is an AssertionError, other damage of other classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"damaged picture of mode {picture.mode} ({reason}); get the file again") from None
    # 5. Upright, and nothing of the file's metadata kept.
    image = upright(rgb, decoded.orientation)
    if image.info:
        image = image.copy()
        image.info.clear()
    return OpenedPhoto(image=image, notes=tuple(notes))


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip: 300 -> 255."""
    if picture.mode in ("I", "F"):
        raise RefusedError(
            f"expected a picture of 8 or 16 bits, got Pillow's mode {picture.mode} of unknown range; give an array of uint8"
        )
    if picture.mode == "La":  # grey times alpha, which Pillow turns into nothing else
        return picture.convert("LA")
    if not picture.mode.startswith("I;16"):
        return picture
    grey = Image.fromarray(grey_of_16_bits(np.asarray(picture)))
    grey.info = dict(picture.info)
    return grey


def _on_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    colours = rgb.copy()
    colours.putalpha(alpha)
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


_MAX_BYTES = MAX_FILE_MB * 1_000_000


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file that is not too large. Nothing else is opened, for a pipe would wait for ever."""

    def read() -> bytes:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something that is not a regular file"
            raise RefusedError(f"expected a photo, got {kind}; give the picture file itself")
        if status.st_size > _MAX_BYTES:
            raise RefusedError(
                f"expected at most {MAX_FILE_MB} MB, got {math.ceil(status.st_size / 1e6)} MB; shrink the picture"
            )
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)

    return _checked(_from_system(read))


def _from_system(read: Callable[[], Any]) -> Any:
    """What a reader gives. The system's errors as one line."""
    try:
        return read()
    except RefusedError:
        raise
    except FileNotFoundError:
        raise RefusedError("expected a photo, got no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, a file that is closed
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RefusedError(f"cannot be read ({reason}); check the path and its permissions") from None


def _checked(content: bytes) -> bytes:
    if not content:
        raise RefusedError("expected a photo, got an empty file; get the file again")
    if len(content) > _MAX_BYTES:
        raise RefusedError(f"expected at most {MAX_FILE_MB} MB, got more; shrink the picture")
    return content
