"""Colours as a file means them -> sRGB: its ICC profile is applied, by Little CMS.

A phone's Display P3 read as sRGB costs 0.03 to 0.05 of an embedding's cosine, ProPhoto 0.2.
"""

import io
from functools import cache

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 8_000_000
"""The largest profiles of printing have some 3 MB."""
CICP, SRGB_CICP = "cicp", (1, 13)
"""Where a PNG's statement of primaries and transfer is kept (ITU-T H.273), and sRGB's: BT.709 and IEC 61966-2-1."""
_SRGB_GAMMA = 0.45455
_SPACES = {
    "RGB": ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "L", "LA", "1", "YCbCr"),
    "GRAY": ("L", "LA", "1"),
    "CMYK": ("CMYK",),
}
"""Modes of pictures that a profile of each colour space can describe; grey values are equal amounts of red, green and blue."""
_INPUT_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(picture: Image.Image) -> tuple[Image.Image, str]:
    """A picture's colours in sRGB, mode RGB without transparency, and a remark where they are not exactly what was meant.

    Differs from a printing program: a profile that cannot be used is left out, for the picture itself is whole.
    """
    icc = picture.info.get("icc_profile")
    if not icc:
        return _opaque(picture), _about(picture)
    try:
        return _by_profile(picture, icc), ""
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        return _opaque(picture), f"its colour profile cannot be used ({reason}): values are taken as sRGB"


def _about(picture: Image.Image) -> str:
    """A remark on a picture without a profile, whose file says in another way that its colours are not sRGB's."""
    if picture.mode == "CMYK":
        return "CMYK without a colour profile: its colours are approximate"
    primaries, transfer = picture.info.get(CICP, SRGB_CICP)
    gamma = picture.info.get("gamma")
    if (primaries, transfer) != SRGB_CICP:
        return f"its colours are of another space (cICP {primaries}, {transfer}): values are taken as sRGB"
    if isinstance(gamma, float) and "srgb" not in picture.info and abs(gamma - _SRGB_GAMMA) > 0.05:
        return f"its gamma is {gamma:g}: values are taken as sRGB"
    return ""


def _by_profile(picture: Image.Image, icc: bytes) -> Image.Image:
    """Raises one of the errors above where the profile cannot be used."""
    # NOTE: multi-process elements may be nested without end, each a pass over the colour cube. No camera writes them.
    if len(icc) > MAX_PROFILE_BYTES or b"mpet" in icc:
        raise ValueError(f"{len(icc)} bytes, or of a kind that may take hours")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space = profile.profile.xcolor_space.strip()
    if picture.mode not in _SPACES.get(space, ()):
        raise ValueError(f"it describes {space}, and the picture is {picture.mode}")
    colours = _opaque(picture) if space == "RGB" else _opaque(picture, _INPUT_MODES[space])
    converted = ImageCms.profileToProfile(colours, profile, _srgb(), outputMode="RGB")
    assert converted is not None  # what inPlace=False gives
    return converted


def _opaque(picture: Image.Image, mode: str = "RGB") -> Image.Image:
    """The colours alone. By way of RGBA where there is transparency, as a palette's may be."""
    if picture.mode == mode and not picture.has_transparency_data:
        return picture
    if picture.has_transparency_data and mode == "RGB":
        return picture.convert("RGBA").convert("RGB")
    return picture.convert(mode)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
