"""Small TrueType fonts made from nothing: each letter a pattern of squares, so that tests need no font of the machine.

The tables are those of the OpenType specification that FreeType asks for: cmap, glyf, head, hhea, hmtx, loca, maxp.
"""

import hashlib
import struct
from pathlib import Path

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EM, _CELL, _ROWS, _COLUMNS = 1_000, 100, 7, 5


def pattern(letter, style=""):
    """Which of 7 x 5 cells a letter fills, an eighth of them by style; two corners always, so that letters are equally large."""
    by_letter, by_style = (
        np.frombuffer(hashlib.blake2b(words.encode(), digest_size=_ROWS * _COLUMNS).digest(), np.uint8)
        for words in (letter, f"{letter} {style}")
    )
    cells = (by_letter % 2 == 0) ^ (by_style < 32 if style else False)
    cells = cells.reshape(_ROWS, _COLUMNS)
    cells[0, 0] = cells[-1, -1] = True
    return cells


def _glyph(cells, weight, slant):
    """A simple glyph: a square of ``weight`` cells a side in each filled cell, leaning by ``slant``."""
    points, ends = [], []
    half = weight * _CELL / 2
    for row, column in zip(*np.nonzero(cells), strict=True):
        x, y = (column + 0.5) * _CELL, (_ROWS - row - 0.5) * _CELL
        for dx, dy in ((-half, -half), (-half, half), (half, half), (half, -half)):
            points.append((round(x + dx + slant * (y + dy)), round(y + dy)))
        ends.append(len(points) - 1)
    xs, ys = np.array(points).T
    head = struct.pack(">5h", len(ends), xs.min(), ys.min(), xs.max(), ys.max())
    steps = [np.diff(values, prepend=0).astype(">i2").tobytes() for values in (xs, ys)]
    glyph = head + struct.pack(f">{len(ends)}HH", *ends, 0) + b"\x01" * len(points) + b"".join(steps)
    return glyph + b"\0" * (-len(glyph) % 4)


def make_font(path, *, weight=0.9, slant=0.0, style="", letters=LETTERS, drawn=None):
    """Write a font.

    Args:
        path: of the file; its folders are made.
        weight: side of a square in cells.
        slant: steps to the right for each step up.
        style: changes an eighth of the cells.
        letters: that it has.
        drawn: what it draws for each of them; by default itself.
    """
    glyphs = [b"", *(_glyph(pattern(shown, style), weight, slant) for shown in drawn or letters)]
    offsets = np.cumsum([0, *map(len, glyphs)])
    groups = sorted((ord(letter), i + 1) for i, letter in enumerate(letters))
    cmap = struct.pack(">HHHHL", 0, 1, 3, 10, 12) + struct.pack(">HHLLL", 12, 0, 16 + 12 * len(groups), 0, len(groups))
    cmap += b"".join(struct.pack(">3L", code, code, glyph) for code, glyph in groups)
    count, wide = len(glyphs), _CELL * (_COLUMNS + 1)
    tables = {
        b"cmap": cmap,
        b"glyf": b"".join(glyphs),
        b"head": struct.pack(
            ">LLLLHHqqhhhhHHhhh", 0x10000, 0, 0, 0x5F0F3CF5, 0, _EM, 0, 0, 0, 0, _EM, _EM, 0, 8, 2, 1, 0
        ),
        b"hhea": struct.pack(">LhhhHhhhhhhhhhhhH", 0x10000, 800, -200, 0, wide, *[0] * 11, count),
        b"hmtx": struct.pack(">Hh", wide, 0) * count,
        b"loca": offsets.astype(">u4").tobytes(),
        b"maxp": struct.pack(">LH13H", 0x10000, count, 400, 40, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    at = 12 + 16 * len(tables)
    directory, content = struct.pack(">LHHHH", 0x10000, len(tables), 64, 2, 48), b""
    for name, table in tables.items():
        directory += struct.pack(">4sLLL", name, 0, at + len(content), len(table))
        content += table + b"\0" * (-len(table) % 4)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(directory + content)
    return path


def make_families(folder, families=14, faces=2):
    """Fonts of several families, each of a style of its own; the faces of a family differ in slant."""
    for family in (f"family{i:02d}" for i in range(families)):
        for j in range(faces):
            make_font(folder / family / f"face{j}.ttf", style=family, slant=0.35 * j)
    return folder
