"""The one face that is meant in a photo, or a named refusal; and how good a photo of it this is."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.alignment import misfit, sharpness, turn
from lorasynth.encoders.detectors import Detector, Face
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import ModelError, NoFaceError, SeveralFacesError, SmallFaceError, UsageError

Choice = Literal["largest"] | int | None
"""Which of several faces: the largest, a number as the refusal lists them (from 0, left to right), or None to refuse."""

LEAST_SIDE = 64
"""Pixels of the box's shorter side; below it recognisers are no better than a blur."""
GOOD_SIDE = 112
LEAST_SHARPNESS, GOOD_SHARPNESS = 30.0, 100.0
"""By `sharpness`. Rules of thumb, not calibrated on photographs."""
MOST_TURN = 0.5
"""By `turn`: beyond it the nose is no longer between the eyes."""
MOST_MISFIT = 0.2
"""By `misfit`, of a face that is not in profile: what turning and nodding by 40 degrees does not reach."""
SURE_SCORE = 0.65
"""Of a detector. A rule of thumb for SCRFD, which reports faces from 0.5; YuNet reports none below 0.9."""
_RETRY_SIDE = 1280  # pixels; detectors look at fewer, and the margin would double a large photo


def find_face(image: Image.Image, detector: Detector, choice: Choice = None) -> tuple[Face, tuple[Remark, ...]]:
    """The face that is meant, and notes on what it took.

    Where no face is found, the photo is tried once more with a margin of half its size on each side: detectors have seen few
    faces that fill the frame.

    Raises:
        NoFaceError: there is none.
        SeveralFacesError: there are several and ``choice`` is None; the message lists them.
        SmallFaceError: the face has fewer than 64 pixels on its shorter side.
        UsageError: ``choice`` is none of the faces.
        ModelError: the detector's output is not finite.
    """
    notes: list[Remark] = []
    faces = detector.detect(image)
    if not faces:
        faces = _detect_with_margin(image, detector)
        words = "the face fills the frame: it was found only after a margin of half the photo was added around it"
        notes.append(Remark("margin", words))
    if not faces:
        raise NoFaceError(
            f"expected a face, got none in {image.width} x {image.height} pixels, nor with a margin around them; give a photo "
            "that shows the whole face, upright and lit"
        )
    if not all(np.isfinite(face.landmarks).all() and np.isfinite(face.box).all() for face in faces):
        raise ModelError("the detector's output is not finite; get its file again")
    faces = sorted(faces, key=lambda face: (face.box[0], face.box[1]))
    face = _choose(faces, choice)
    if choice is not None and len(faces) > 1:
        which = "the largest" if choice == "largest" else f"number {choice}"
        notes.append(Remark("chosen", f"{which} of {len(faces)} faces was taken, {_where(face)}"))
    if min(face.width, face.height) < LEAST_SIDE:
        raise SmallFaceError(
            f"expected a face of at least {LEAST_SIDE} pixels a side, got {face.width:.0f} x {face.height:.0f}; give a larger "
            "photo, or one taken from nearer"
        )
    return face, tuple(notes)


def judge(face: Face, crop: Float[Tensor, "3 S S"]) -> tuple[float, tuple[Remark, ...]]:
    """Quality from 0 to 1, and warnings, of a face and its aligned crop.

    Quality is the product of four readings of at most 1: the detector's score, pixels, sharpness and frontality. It sorts photos
    of one person, and says nothing about likeness.
    """
    side, sharp, turned = min(face.width, face.height), sharpness(crop), abs(turn(face.landmarks))
    warnings: list[Remark] = []
    if sharp < LEAST_SHARPNESS:
        words = f"blurred: sharpness {sharp:.0f}, expected at least {LEAST_SHARPNESS:.0f}; a sharper photo helps"
        warnings.append(Remark("blurred", words))
    if turned > MOST_TURN:
        words = "in profile: the nose is not between the eyes; a photo from the front helps"
        warnings.append(Remark("profile", words))
    elif (odd := misfit(face.landmarks)) > MOST_MISFIT:
        words = (
            f"drawn, or seen steeply from above or below: eyes, nose and mouth lie {odd:.2f} eye distances from a face's, "
            f"expected at most {MOST_MISFIT}; a photograph from the front helps"
        )
        warnings.append(Remark("drawn", words))
    if face.score < SURE_SCORE:
        words = (
            f"hardly a face to the detector: score {face.score:.2f}, expected at least {SURE_SCORE}; a photo in which it is not "
            "covered helps"
        )
        warnings.append(Remark("doubtful", words))
    readings = (face.score, side / GOOD_SIDE, sharp / GOOD_SHARPNESS, 1 - turned)
    return float(np.prod(np.clip(readings, 0, 1))), tuple(warnings)


def _choose(faces: list[Face], choice: Choice) -> Face:
    """One of the faces, which are sorted from left to right."""
    if choice == "largest":
        return max(faces, key=lambda face: face.width * face.height)
    if choice is None and len(faces) == 1:
        return faces[0]
    boxes = "; ".join(f"{number} {_where(face)}" for number, face in enumerate(faces))
    if choice is None:
        raise SeveralFacesError(
            f"expected one face, got {len(faces)}: {boxes}; crop the photo, or choose with face='largest' or a number"
        )
    if not isinstance(choice, int) or not 0 <= choice < len(faces):
        raise UsageError(f"expected face='largest' or a number of the faces {boxes}; got {choice!r}")
    return faces[choice]


def _where(face: Face) -> str:
    left, top = face.box[:2]
    return f"at left {left:.0f}, top {top:.0f}, {face.width:.0f} x {face.height:.0f} pixels"


def _detect_with_margin(image: Image.Image, detector: Detector) -> list[Face]:
    """Faces of the photo with half its size added on each side, in pixels of the photo."""
    small = image.convert("RGB")
    small.thumbnail((_RETRY_SIDE, _RETRY_SIDE))  # never enlarges
    margin = np.array([small.width // 2, small.height // 2])
    padded = Image.new("RGB", (small.width + 2 * int(margin[0]), small.height + 2 * int(margin[1])))
    padded.paste(small, (int(margin[0]), int(margin[1])))
    scale = np.array([image.width / small.width, image.height / small.height])
    faces = []
    for face in detector.detect(padded):
        left, top, right, bottom = ((np.array(face.box).reshape(2, 2) - margin) * scale).ravel().tolist()
        landmarks = (face.landmarks - margin) * scale
        faces.append(Face(box=(left, top, right, bottom), landmarks=landmarks, score=face.score))
    return faces
