"""Opening any photo file a person has, safely: sizes from the header first, upright, in RGB, or a reason why not."""

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lorasynth.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE, MAX_SIDE, MAX_MEGAPIXELS, MAX_ASPECT = 48, 16_384, 64, 4
MAX_FILE_MB = 64
_OTHER = (
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<", "an HTML or XML page"),
    (b"GIF8", "a GIF"),
    (b"%!PS", "an EPS drawing"),
    (b"\x00\x00\x00", "a HEIC or video file"),
    (b"PK\x03\x04", "a zip"),
)


def open_photo(path: str | Path) -> Image.Image:
    """A photo as an upright RGB image.

    JPEG, PNG and WebP; EXIF orientation is applied, transparency put on white, 16-bit, gray, palette and CMYK converted.

    Raises:
        PhotoError: the file is missing, of another kind, animated, damaged, too small or too large; says which.
    """
    path = Path(path)
    try:
        if not path.is_file():
            what = "a folder or device" if path.exists() else "no such file"
            raise PhotoError(f"{path}: expected a photo, got {what}; check the name")
        if path.stat().st_size > MAX_FILE_MB * 2**20:
            raise PhotoError(f"{path}: expected at most {MAX_FILE_MB} MB, got {path.stat().st_size / 2**20:.0f} MB; shrink it")
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise PhotoError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not head:
        raise PhotoError(f"{path}: expected a photo, got an empty file; get it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        kind = next((name for magic, name in _OTHER if head.lstrip().startswith(magic)), "something else")
        raise PhotoError(f"{path}: expected a JPEG, PNG or WebP photo, got {kind}; convert it") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PhotoError(f"{path}: expected at most {MAX_MEGAPIXELS} megapixels, got far more; shrink it") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise PhotoError(f"{path}: expected a photo, it is damaged ({error}); get it again") from None
    with image:
        _check_size(path, *image.size)
        if getattr(image, "n_frames", 1) > 1:
            raise PhotoError(f"{path}: expected a still photo, got an animation of {image.n_frames} frames; save one frame")
        try:
            image.load()
            return _to_rgb(_upright(image))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise PhotoError(f"{path}: expected a whole photo, it is damaged or cut short ({error}); get it again") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"{path}: expected at least {MIN_SIDE} pixels a side, got {width}x{height}; use a larger photo")
    if max(width, height) > MAX_SIDE or width * height > MAX_MEGAPIXELS * 1e6:
        raise PhotoError(
            f"{path}: expected at most {MAX_SIDE} pixels a side and {MAX_MEGAPIXELS} megapixels, got {width}x{height}; shrink it"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(f"{path}: expected sides of at most {MAX_ASPECT}:1, got {width}x{height}; crop it to the face")


def _upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied; a senseless one is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, TypeError, KeyError, SyntaxError, ZeroDivisionError):
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray: scaled, as PIL's own conversion clips
        gray = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(gray.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def photo_tensor(image: Image.Image, size: int) -> Float[Tensor, "3 S S"]:
    """The central square of an image at ``size`` pixels, in [0, 1]."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BOX if min(image.size) >= 2 * size else Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def to_image(picture: Float[Tensor, "3 H W"]) -> Image.Image:
    """A picture in [0, 1] as an 8-bit image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
