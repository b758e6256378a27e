"""The faces of a folder of fonts that can be learned from, and why others are left out; by family, some are held out."""

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from drawing import LETTERS, Metrics, coverage

ENDINGS = (".otf", ".ttf")
SAME = 0.10
"""Difference of all letters over their ink, at most, for two faces that look the same."""
ALIKE = 0.20
"""The same, for a face to learn from that is too like a held-out one."""
_SIDE = 16  # pixels a side of the letters that are compared
_DISTINCT = 24  # of 26 letters of a case
_BLUR = 2.0  # pixels of 16, so that letters are told by their shape whatever their weight
_UNLIKE = (
    0.2  # median correlation with what most faces draw, at most, for symbols; of 1,451 faces 26 of 28 below are symbols
)


@dataclass(frozen=True, kw_only=True)
class Face:
    """One font file."""

    name: str
    family: str
    font: Path
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A font that is not used, and why."""

    font: str
    family: str
    reason: str  # "unreadable", "letters", "symbols", "duplicate", "family-full", "like-held-out"
    words: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a folder of fonts."""

    train: tuple[Face, ...]
    held_out: tuple[Face, ...]
    left_out: tuple[LeftOut, ...]

    def save(self, path: Path, fonts: Path) -> None:
        """Write it as JSON, fonts by their paths within the folder."""
        record = {
            "fonts": str(fonts.resolve()),
            "train": [_record(face, fonts) for face in self.train],
            "held_out": [_record(face, fonts) for face in self.held_out],
            "left_out": [asdict(one) for one in self.left_out],
        }
        path.write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Survey":
        """What `save` wrote."""
        record = json.loads(path.read_text())
        fonts = Path(record["fonts"])
        train, held_out = (tuple(_face(row, fonts) for row in record[part]) for part in ("train", "held_out"))
        return cls(train=train, held_out=held_out, left_out=tuple(LeftOut(**row) for row in record["left_out"]))


def _record(face: Face, fonts: Path) -> dict:
    return asdict(face) | {"font": face.font.relative_to(fonts).as_posix()}


def _face(row: dict, fonts: Path) -> Face:
    return Face(**row | {"font": fonts / row["font"], "metrics": Metrics(**row["metrics"])})


def survey(fonts: Path, *, held_out: int, faces_a_family: int) -> Survey:
    """Look at every font of a folder. A family is the folder that a font lies in.

    Args:
        fonts: the folder, with folders in it.
        held_out: how many families are out of everything that learns. A hash of their names decides which.
        faces_a_family: at most; those that differ most from the faces chosen before are chosen.

    Raises:
        FileNotFoundError: there is no font.
    """
    paths = sorted(path for path in fonts.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{fonts}: expected {' or '.join(ENDINGS)} files in it or below, got none")
    left_out: list[LeftOut] = []
    faces, shapes = _with_letters(paths, left_out)
    for rule in (_symbols, _duplicates):
        faces, shapes = _keep(faces, shapes, rule(faces, shapes), left_out)
    faces, shapes = _keep(faces, shapes, _beyond(faces, shapes, faces_a_family), left_out)
    families = held_out_families({face.family for face in faces}, held_out)
    faces, shapes = _keep(faces, shapes, _like_held_out(faces, shapes, families), left_out)
    return Survey(
        train=tuple(face for face in faces if face.family not in families),
        held_out=tuple(face for face in faces if face.family in families),
        left_out=tuple(left_out),
    )


def held_out_families(families: Iterable[str], count: int) -> set[str]:
    """As many families, by a hash of their names: more fonts in a family change nothing."""
    return set(sorted(families, key=lambda family: hashlib.sha256(family.encode()).digest())[:count])


Reasons = dict[int, tuple[str, str]]
"""Reason and words by the place of a face."""


def _with_letters(paths: Sequence[Path], left_out: list[LeftOut]) -> tuple[list[Face], np.ndarray]:
    """The fonts that draw distinct letters, and all of their letters, bytes of (faces, letters, side, side)."""
    faces: dict[str, Face] = {}
    shapes = []
    for path in paths:
        family = path.parent.name
        try:
            metrics = Metrics.of(path)
            shapes.append(_distinct_letters(path, metrics))
        except (OSError, ValueError) as error:
            reason = "unreadable" if isinstance(error, OSError) else "letters"
            left_out.append(LeftOut(font=path.name, family=family, reason=reason, words=str(error)))
            continue
        name = _unused(f"{family}-{path.stem}", faces)
        faces[name] = Face(name=name, family=family, font=path, metrics=metrics)
    return list(faces.values()), np.stack(shapes) if shapes else np.zeros((0, len(LETTERS), _SIDE, _SIDE), np.uint8)


def _distinct_letters(font: Path, metrics: Metrics) -> np.ndarray:
    """Small pictures of all letters.

    Raises:
        ValueError: too many letters of a case are the same.
    """
    letters = np.stack([_small(font, metrics, letter) for letter in LETTERS])
    distinct = [len(np.unique(case.reshape(26, -1), axis=0)) for case in (letters[:26], letters[26:])]
    if min(distinct) < _DISTINCT:
        raise ValueError(f"draws {distinct[0]} capital and {distinct[1]} small letters that differ")
    return letters


def _unused(name: str, taken: Container[str]) -> str:
    """A name, numbered where it is taken: a font may lie there as OpenType and as TrueType."""
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _small(font: Path, metrics: Metrics, letter: str) -> np.ndarray:
    return np.asarray(coverage(font, metrics, letter).resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _keep(
    faces: list[Face], shapes: np.ndarray, reasons: Reasons, left_out: list[LeftOut]
) -> tuple[list[Face], np.ndarray]:
    for i, (reason, words) in sorted(reasons.items()):
        face = faces[i]
        left_out.append(LeftOut(font=face.font.name, family=face.family, reason=reason, words=words))
    kept = [i for i in range(len(faces)) if i not in reasons]
    return [faces[i] for i in kept], shapes[kept]


def _symbols(faces: list[Face], shapes: np.ndarray) -> Reasons:
    """Faces whose letters are unlike those of most, beyond what all letters have in common."""
    if not len(faces):
        return {}
    coarse = np.stack([[_coarse(letter) for letter in letters] for letters in shapes])
    usual = np.median(coarse, axis=0)
    coarse, usual = (x - usual.mean(0) for x in (coarse, usual))
    coarse, usual = (x - x.mean(-1, keepdims=True) for x in (coarse, usual))
    scale = np.sqrt((coarse**2).sum(-1) * (usual**2).sum(-1)) + 1e-9
    alike = np.median((coarse * usual).sum(-1) / scale, axis=1)
    words = "its letters correlate by {:.2f} with those of most faces, expected more than {}"
    return {int(i): ("symbols", words.format(alike[i], _UNLIKE)) for i in np.flatnonzero(alike < _UNLIKE)}


def _coarse(letter: np.ndarray) -> np.ndarray:
    """A blurred picture of what is in the letter's own box, of mean 1."""
    image = Image.fromarray(letter)
    box = image.crop(image.getbbox()).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    blurred = np.asarray(box.filter(ImageFilter.GaussianBlur(_BLUR)), float).ravel()
    return blurred / (blurred.mean() + 1e-9)


def differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much of the lesser ink the letters of faces differ, (n, letters, side, side) x (m, ...) -> (n, m)."""
    a, b = (torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)) for x in (one, other))
    ink = torch.minimum(a.sum(1)[:, None], b.sum(1)[None, :]).clamp(min=1)
    return (torch.cdist(a, b, p=1) / ink).numpy()


def _duplicates(faces: list[Face], shapes: np.ndarray) -> Reasons:
    """Faces that look the same as one before."""
    apart, found = differences(shapes, shapes), Reasons()
    for i in range(len(faces)):
        before = [j for j in range(i) if j not in found and apart[i, j] < SAME]
        if before:
            found[i] = ("duplicate", f"looks the same as {faces[before[0]].name}")
    return found


def _beyond(faces: list[Face], shapes: np.ndarray, most: int) -> Reasons:
    """The faces of a family beyond the ``most`` that are furthest apart."""
    found = Reasons()
    for family, faces_in_it in Counter(face.family for face in faces).items():
        places = np.array([i for i, face in enumerate(faces) if face.family == family])
        if faces_in_it <= most:
            continue
        apart = differences(shapes[places], shapes[places])
        chosen, nearest = [0], apart[0].copy()
        while len(chosen) < most:
            chosen.append(int(nearest.argmax()))
            nearest = np.minimum(nearest, apart[chosen[-1]])
        words = f"its family has {faces_in_it} faces, of which {most} are used"
        found |= {int(i): ("family-full", words) for i in np.delete(places, chosen)}
    return found


def _like_held_out(faces: list[Face], shapes: np.ndarray, families: set[str]) -> Reasons:
    """Faces to learn from that are too like one of a held-out family."""
    held_out = [i for i, face in enumerate(faces) if face.family in families]
    others = [i for i, face in enumerate(faces) if face.family not in families]
    if not held_out or not others:
        return {}
    apart = differences(shapes[others], shapes[held_out])
    return {
        i: ("like-held-out", f"looks much like {faces[held_out[int(row.argmin())]].name}, which is held out")
        for i, row in zip(others, apart, strict=True)
        if row.min() < ALIKE
    }
