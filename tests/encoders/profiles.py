"""ICC profiles made by code, from published primaries: a display's matrix and curve, and a printer's table."""

import struct

import numpy as np

# Columns: red, green, blue in XYZ relative to D50, as these spaces' published profiles have them.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_GAMMA = 563 / 256


def profile(primaries: np.ndarray, gamma: float = 2.2, space: bytes = b"RGB ") -> bytes:
    """A display's profile of version 2: three primaries and one power."""
    tags = {b"desc": _text("made by a test"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz([0.9642, 1.0, 0.8249])}
    for name, column in zip((b"r", b"g", b"b"), primaries.T, strict=True):
        tags[name + b"XYZ"] = _xyz(column)
        tags[name + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _assembled(b"mntr", space, b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A grey display's: one power."""
    tags = {b"desc": _text("grey"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz([0.9642, 1.0, 0.8249])}
    tags[b"kTRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _assembled(b"mntr", b"GRAY", b"XYZ ", tags)


def cmyk_profile() -> bytes:
    """A printer's: its inks' sixteen mixtures in CIELAB, whose lightness falls by 20 an ink and by 60 with black."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # black changes fastest
    lightness = np.clip(100 - corners @ np.array([20, 20, 20, 60]), 0, 100) * 255 / 100
    table = np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=1).round().astype(np.uint8).tobytes()
    identity = struct.pack(">9i", *(round(65536 * v) for v in np.eye(3).ravel()))
    curve = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + curve * 4 + table + curve * 3
    tags = {b"desc": _text("inks"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz([0.9642, 1.0, 0.8249]), b"A2B0": lut}
    return _assembled(b"prtr", b"CMYK", b"Lab ", tags)


def encode(linear: np.ndarray, gamma: float) -> np.ndarray:
    """Linear light -> levels of 255 by a power."""
    return (255 * linear.clip(0, 1) ** (1 / gamma)).round().astype(np.uint8)


def srgb_light(levels: np.ndarray) -> np.ndarray:
    """Levels of 255 in sRGB -> linear light (IEC 61966-2-1)."""
    v = levels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _text(words: str) -> bytes:
    content = words.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(content)) + content + bytes(78)


def _xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * float(v)) for v in values))


def _assembled(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, content = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(content), len(value))
        content += value
    body = struct.pack(">I", len(tags)) + table + content
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"none", 0x02100000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + body
