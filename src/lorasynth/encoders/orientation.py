"""Which side of a picture is up? EXIF's or XMP's word for it, read without the rest of the metadata.

NOTE: Pillow's reader copies what every entry points to, so that an EXIF of 65,535 entries that all point to the same megabytes is
gigabytes of memory. Here only the one entry is looked at (TIFF 6.0, section 2; CIPA DC-008, 4.6.4 A).
"""

import re
import struct

from PIL import Image

ORIENTATION = 0x0112
"""EXIF's number of the entry."""
_PREFIX = re.compile(rb"(?:Exif\0\0)+")
_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# What brings a picture upright; 1 is upright, other values mean nothing.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture turned and mirrored as an orientation says."""
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation that metadata states, 1 where there is none or it makes no sense: as Pillow reads it."""
    found = _of_exif(exif)
    if found is None and (match := _XMP.search(xmp)):
        return int(match[1])
    return 1 if found is None else found


def orientation_of_info(info: dict) -> int:
    """The orientation by what Pillow's readers keep of a PNG's or WebP's metadata."""
    exif = info.get("exif") or b""
    if not exif and isinstance(raw := info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            exif = b""
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return orientation_of(exif, xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp)


def _of_exif(exif: bytes) -> int | None:
    prefix = _PREFIX.match(exif)
    begin = prefix.end() if prefix else 0  # Pillow, too, takes any number of them
    order = {b"II": "<", b"MM": ">"}.get(exif[begin : begin + 2])
    if order is None:
        return None
    found = None
    try:
        start = begin + struct.unpack_from(order + "I", exif, begin + 4)[0]
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
            if tag == ORIENTATION and kind in _FORMATS and number == 1:
                (found,) = struct.unpack_from(order + _FORMATS[kind], exif, at + 8)
    except struct.error:  # cut off: what came before it holds
        pass
    return found
