"""A photo looked at four ways up, for programs lose the word for which side is up, and detectors misread faces that lie.

SCRFD reports a face that lies on its side with landmarks as if it were upright, so that its embedding is somebody else's. The
turn in which the detector is surest is the right one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from lorasynth.encoders.detectors import Detector, Face
from lorasynth.errors import ModelError

_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
TIE = 0.03
"""Of scores: below it no turn is better than another, and the photo is taken as it is."""
AGREEMENT = 0.2
"""Root mean square distance of landmarks, in eye distances, below which two looks see the same face the same way up."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The faces of a photo that was turned, in pixels of the photo as it was."""

    degrees: int  # it was turned by so many to the left
    faces: list[Face]

    @property
    def best(self) -> Face | None:
        """The face that the detector is surest of."""
        return max(self.faces, key=lambda face: face.score, default=None)


def look_four_ways(image: Image.Image, detector: Detector) -> list[Look]:
    """The photo as it is, and turned by 90, 180 and 270 degrees to the left.

    Raises:
        ModelError: the detector's output is not finite.
    """
    looks = []
    for turns in range(4):
        found = detector.detect(image.transpose(_TURNS[turns]) if turns else image)
        if not all(np.isfinite(face.landmarks).all() and np.isfinite(face.box).all() for face in found):
            raise ModelError("the detector's output is not finite; get its file again")
        looks.append(Look(degrees=90 * turns, faces=[_turned_back(face, turns, image.size) for face in found]))
    return looks


def surest(looks: Sequence[Look], least_score: float) -> Look | None:
    """The look whose best face has the highest score, or None where no face reaches ``least_score``.

    The photo as it is goes before others that are no better, or see the same landmarks.
    """
    able = [look for look in looks if look.best is not None and look.best.score >= least_score]
    if not able:
        return None
    first, top = able[0], max(able, key=_score)
    if first.degrees == 0 and (_score(first) >= _score(top) - TIE or _agree(first, top)):
        return first
    return top


def _score(look: Look) -> float:
    return look.best.score if look.best is not None else 0.0


def _agree(a: Look, b: Look) -> bool:
    if a.best is None or b.best is None:
        return False
    ours, theirs = a.best.landmarks, b.best.landmarks
    distance = np.sqrt(np.square(ours - theirs).sum(axis=1).mean())
    return bool(distance <= AGREEMENT * np.linalg.norm(theirs[1] - theirs[0]))


def _turned_back(face: Face, turns: int, size: tuple[int, int]) -> Face:
    """A face of the turned photo, in pixels of the photo of a size."""
    if not turns:
        return face
    corners = _points_back(np.array(face.box).reshape(2, 2), turns, size)
    (left, right), (top, bottom) = np.sort(corners, axis=0).T.tolist()
    return Face(box=(left, top, right, bottom), landmarks=_points_back(face.landmarks, turns, size), score=face.score)


def _points_back(points: Float[np.ndarray, "n 2"], turns: int, size: tuple[int, int]) -> Float[np.ndarray, "n 2"]:
    last_x, last_y = size[0] - 1, size[1] - 1
    x, y = points[:, 0], points[:, 1]
    back = {1: (last_x - y, x), 2: (last_x - x, last_y - y), 3: (y, last_y - x)}[turns]
    return np.stack(back, axis=1)
