"""A JPEG's segments, read before any decoder sees the file: how much work its scans are, and the file without its metadata.

Markers: ITU-T T.81, table B.1 and section B.1.1. Each scan of a progressive JPEG may go over the whole picture again, so that
a file of 0.2 MB keeps a decoder busy for half a minute. Here its scans are counted in milliseconds.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lorasynth.encoders.refusals import RefusedError

MAX_SCANS = 64
"""Encoders write 1 to 12, optimisers of progressive files some 20."""
MAX_SEGMENTS = 20_000
"""Before the first scan; a phone's depth map takes some hundred."""

_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
# SOF0 to SOF15 without DHT, JPG and DAC, which share their range.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Lossless and hierarchical frames, which no decoder of photos takes.
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # any number of fill bytes may stand before it
# What ends a scan's data: a marker that is neither a stuffed zero, a restart nor a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class JPEG:
    """A file that a decoder may see, and the metadata that was taken out of it."""

    content: bytes
    exif: bytes
    xmp: bytes


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, by the frame header.

    Raises:
        RefusedError: it is whole, and of a kind that decoders of photos do not take.
        ValueError: there is none, or it is cut off.
    """
    for marker, at, length in _segments(content):
        if marker in _FRAMES:
            if marker in _OTHER_FRAMES or content[at + 2] != 8:
                kind = "a lossless or hierarchical one" if marker in _OTHER_FRAMES else f"one of {content[at + 2]} bits"
                raise RefusedError(
                    f"expected a baseline or progressive JPEG of 8 bits, got {kind}; save the picture anew"
                )
            height, width = struct.unpack_from(">HH", content, at + 3)
            return width, height
        if at + length > len(content):
            break
    raise ValueError("there is no frame header")


def inspect_jpeg(content: bytes) -> JPEG:
    """Count a JPEG's segments and scans, and take its metadata out: decoders would parse all of it, for all that it is long.

    The colour profile and what tells the decoder about colours (APP0, APP14) stay.

    Raises:
        RefusedError: there are more segments or scans than a photo has.
        ValueError: segments do not follow each other.
    """
    kept, exif, xmp = [content[:2]], [], b""
    for marker, at, length in _segments(content):
        body = content[at + 2 : at + length]
        if marker == _APP1 and body.startswith(_EXIF):
            exif.append(body[len(_EXIF) :])
        elif marker == _APP1 and body.startswith(_XMP):
            xmp = body[len(_XMP) :]
        if not _is_metadata(marker, body):
            kept.append(bytes((0xFF, marker)) + content[at : at + length])
    end_of_header = at + length
    _check_scans(content, end_of_header)
    return JPEG(content=b"".join([*kept, content[end_of_header:]]), exif=b"".join(exif), xmp=xmp)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, where its length stands, and that length, of each segment up to the first scan's header."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.match(content, at)
        if found is None:
            raise ValueError(f"expected a marker at byte {at}" if at < len(content) else "the header is cut off")
        marker, at = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _END:
            raise ValueError("there is no scan")
        if at + 2 > len(content):
            raise ValueError("the header is cut off")
        (length,) = struct.unpack_from(">H", content, at)
        if length < 2:
            raise ValueError(f"a segment of length {length} at byte {at}")
        yield marker, at, length
        if marker == _SCAN:
            return
        at += length
    raise RefusedError(f"expected a JPEG of at most {MAX_SEGMENTS} segments, got more; save the picture anew")


def _is_metadata(marker: int, body: bytes) -> bool:
    if marker == _APP2:
        return not body.startswith(_ICC)
    return marker == _COMMENT or (_APP0 < marker <= _APP15 and marker != _APP14)


def _check_scans(content: bytes, at: int) -> None:
    """Walk from scan to scan, beginning with the first one's data."""
    num_scans = 1
    for found in _NEXT_MARKER.finditer(content, at):
        marker = content[found.end() - 1]
        if marker == _END:
            return
        num_scans += marker == _SCAN
        if num_scans > MAX_SCANS:
            raise RefusedError(f"expected a JPEG of at most {MAX_SCANS} scans, got more; save the picture anew")
