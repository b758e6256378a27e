"""What the first bytes of a picture file say: its format, and its size before any decoder sees the file.

Sizes: PNG, W3C PNG 11.2.2 (IHDR), JPEG, ITU-T T.81 B.2.2 (frame header), and WebP, RFC 9649 sections 2.5 to 2.7.
"""

import struct

from lorasynth.encoders.jpeg import jpeg_size

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats that are opened; all others are only named."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF or camera RAW"),
    (b"MM\x00*", "TIFF or camera RAW"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"qoif", "QOI"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def file_format(content: bytes) -> str:
    """The format of a file by its first bytes, never by its name: one of `PHOTO_FORMATS`, or words for a message."""
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        brand = content[8:12]
        return "HEIC" if brand in _HEIF_BRANDS else "AVIF" if brand in (b"avif", b"avis") else "MP4 or QuickTime"
    start = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "SVG"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    return "text" if _is_text(content[:512]) else "an unknown format"


def picture_size(content: bytes, format: str) -> tuple[int, int]:
    """Width and height in pixels that the header of a JPEG, PNG or WebP claims.

    Raises:
        ValueError: the header is damaged or cut off.
    """
    try:
        if format == "PNG":
            return _png_size(content)
        if format == "JPEG":
            return jpeg_size(content)
        if format == "WEBP":
            return _webp_size(content)
    except (IndexError, struct.error):
        raise ValueError("the header is cut off") from None
    raise ValueError(f"expected one of {', '.join(PHOTO_FORMATS)}, got {format}")


def _is_text(content: bytes) -> bool:
    """Whether bytes, perhaps cut within a character, are printable UTF-8."""
    if not content:
        return False
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(content) - 3:
            return False
        text = content[: error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() for c in text)


def _png_size(content: bytes) -> tuple[int, int]:
    if content[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":  # 24 bits each, less one
        return 1 + _uint24(content, 24), 1 + _uint24(content, 27)
    if kind == b"VP8L":  # 14 bits each, less one, after the signature byte
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # 14 bits each, the upper two are a scale
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"expected a VP8, VP8L or VP8X chunk, got {kind!r}")


def _uint24(content: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", content, at)
    return low | high << 16
