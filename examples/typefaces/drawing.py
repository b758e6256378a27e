"""Letters of a typeface as small pictures, each with a caption that says which letters it shows and on what ground."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 64
"""Pixels a side."""
LETTERS = string.ascii_uppercase + string.ascii_lowercase
TRIGGER = "[trigger]"
GROUNDS = {
    "black on white": (0.05, 0.95),
    "black on grey": (0.05, 0.65),
    "white on grey": (0.95, 0.4),
    "white on black": (0.95, 0.08),
}
"""Brightness of ink and ground by the words of a caption."""
_CAP_HEIGHT, _ROOM = 34.0, 58.0  # pixels of a capital letter, and at most of any letter, either way
_MEASURED_AT = 200  # pixels an em


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How large a face is drawn, and where: its capitals alike in height, all letters within the picture."""

    em: float  # pixels
    baseline: float  # pixels from the top

    @classmethod
    def of(cls, font: Path) -> "Metrics":
        """Measure the boxes of all letters.

        Raises:
            OSError: the font cannot be read.
            ValueError: a letter has no ink.
        """
        opened = open_font(font, _MEASURED_AT)
        boxes = np.array([opened.getbbox(letter, anchor="ls") for letter in LETTERS], float) / _MEASURED_AT
        width, above, below = boxes[:, 2] - boxes[:, 0], -boxes[:, 1], boxes[:, 3]
        capital = above[LETTERS.index("H")]
        if capital <= 0 or width.min() <= 0:
            raise ValueError("a letter has no ink")
        top, bottom = above.max(), below.max()
        em = min(_CAP_HEIGHT / capital, _ROOM / (top + bottom), _ROOM / np.quantile(width, 0.95))
        return cls(em=float(em), baseline=float(SIZE / 2 + em * (top - bottom) / 2))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What differs between two pictures of the same letters."""

    ground: str = "black on white"
    ink: float = 0.05
    paper: float = 0.95
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # pixels to the right and down
    blur: float = 0.0  # pixels
    light: tuple[float, float] = (0.0, 0.0)  # by how much brightness grows from left to right and from top to bottom


PLAIN = Look()
"""Black on white, in the middle: how true letters are drawn for comparison."""


def draw_look(rng: np.random.Generator) -> Look:
    """A random look."""
    ground = str(rng.choice(list(GROUNDS)))
    ink, paper = (float(np.clip(level + rng.normal(0, 0.03), 0, 1)) for level in GROUNDS[ground])
    return Look(
        ground=ground, ink=ink, paper=paper, scale=float(rng.uniform(0.9, 1.1)),
        shift=(float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2))), blur=float(max(0, rng.uniform(-0.5, 0.6))),
        light=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.05))),
    )  # fmt: skip


def draw_letters(rng: np.random.Generator, order: Sequence[str] = LETTERS) -> str:
    """One letter of six in ten pictures, two or three else, all capital or all small.

    Args:
        rng: draws how many, and the others.
        order: the first is taken; the others are drawn from those of its case.
    """
    first = order[0]
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.2, 0.2]))
    case = string.ascii_uppercase if first.isupper() else string.ascii_lowercase
    return first + "".join(rng.choice(list(case), count - 1))


def caption(letters: str, ground: str, subject: str = TRIGGER) -> str:
    """Which letters, of which face, on what ground.

    The case is said in words, for CLIP's tokenizer makes all letters small.
    """
    kind = "capital" if letters[0].isupper() else "small"
    plural = "s" if len(letters) > 1 else ""
    return f"the {kind} letter{plural} {', '.join(letters)} in {subject}, {ground}"


def open_font(font: Path, pixels: float) -> ImageFont.FreeTypeFont:
    """A font by Pillow, without shaping, which differs from machine to machine.

    Raises:
        OSError: it cannot be read.
    """
    return ImageFont.truetype(font, pixels, layout_engine=ImageFont.Layout.BASIC)


def coverage(font: Path, metrics: Metrics, letters: str, look: Look = PLAIN) -> Image.Image:
    """How much ink lies on each pixel, from 0 to 255, in the middle of the picture; words are made small enough to fit."""
    opened = open_font(font, metrics.em * look.scale)
    left, _, right, _ = opened.getbbox(letters, anchor="ls")
    if right - left > SIZE - 4:
        opened = open_font(font, metrics.em * look.scale * (SIZE - 4) / (right - left))
        left, _, right, _ = opened.getbbox(letters, anchor="ls")
    image = Image.new("L", (SIZE, SIZE))
    corner = (SIZE / 2 - (left + right) / 2 + look.shift[0], metrics.baseline + look.shift[1])
    ImageDraw.Draw(image).text(corner, letters, font=opened, fill=255, anchor="ls")
    return image.filter(ImageFilter.GaussianBlur(look.blur)) if look.blur else image


def draw(font: Path, metrics: Metrics, letters: str, look: Look = PLAIN) -> np.ndarray:
    """A picture, bytes of (SIZE, SIZE): ink on paper under a light."""
    ink = np.asarray(coverage(font, metrics, letters, look), np.float32) / 255
    side = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = 1 + look.light[0] * side[None, :] + look.light[1] * side[:, None]
    grey = (look.paper + (look.ink - look.paper) * ink) * light
    return (grey.clip(0, 1) * 255).round().astype(np.uint8)
