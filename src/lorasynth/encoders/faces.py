"""The one face that is meant in a photo and how good a photo of it this is, or a named refusal."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.alignment import brightness, misfit, sharpness, turn
from lorasynth.encoders.detectors import Detector, Face
from lorasynth.encoders.looking import Look, look_four_ways, surest
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import NoFaceError, SeveralFacesError, SmallFaceError, TurnedFaceError, UsageError

Choice = Literal["largest"] | int | None
"""Which of several faces: the largest, a number as the refusal lists them (from 0, left to right), or None to refuse."""

LEAST_SIDE = 64
"""Pixels of the box's shorter side; below it recognisers are no better than a blur."""
GOOD_SIDE = 112
LEAST_SHARPNESS, GOOD_SHARPNESS = 30.0, 100.0
"""By `sharpness`. Rules of thumb, not calibrated on photographs."""
LEAST_LIGHT = 25.0
"""By `brightness`, in levels of 255."""
MOST_TURN = 0.5
"""By `turn`: beyond it the nose is no longer between the eyes."""
MOST_MISFIT = 0.2
"""By `misfit`, of a face that is not in profile: what turning and nodding by 40 degrees does not reach."""
SURE_SCORE = 0.65
"""Of a detector. A rule of thumb for SCRFD, which reports faces from 0.5; YuNet's are sure from 0.9 only."""
PART_OF_LARGEST = 0.25
"""Of the largest sure face's shorter side: a doubtful face below it is taken for a pattern, not for a person."""
_RETRY_SIDE = 1280  # pixels; detectors look at fewer, and the margin would double a large photo


def find_face(image: Image.Image, detector: Detector, choice: Choice = None) -> tuple[Face, tuple[Remark, ...]]:
    """The face that is meant, and notes on what it took.

    The photo is looked at four ways up, and read the way in which the detector is surest of a face. Where no face is found, it is
    tried once more with a margin of half its size on each side: detectors have seen few faces that fill the frame.

    Raises:
        NoFaceError: there is none.
        SeveralFacesError: there are several and ``choice`` is None; the message lists them.
        SmallFaceError: the face has fewer than 64 pixels on its shorter side.
        TurnedFaceError: it is found in a turned photo only, and not surely.
        UsageError: ``choice`` is none of the faces.
        ModelError: the detector's output is not finite.
    """
    notes: list[Remark] = []
    sure = getattr(detector, "sure_score", 0.0)
    look = surest(look_four_ways(image, detector), sure)
    if look is None:
        look = surest(_look_with_margin(image, detector), sure)
        words = "the face fills the frame: it was found only after a margin of half the photo was added around it"
        notes.append(Remark("margin", words))
    if look is None:
        raise NoFaceError(
            f"expected a face, got none in {image.width} x {image.height} pixels, nor with a margin around them; give a photo "
            "that shows the whole face, upright and lit"
        )
    if look.degrees:
        notes.append(_turned(look))
    faces = sorted(_people(look, sure), key=lambda face: (face.box[0], face.box[1]))
    face = _choose(faces, choice)
    if choice is not None and len(faces) > 1:
        which = "the largest" if choice == "largest" else f"number {choice}"
        notes.append(Remark("chosen", f"{which} of {len(faces)} faces was taken, {_where(face)}"))
    side = min(face.width, face.height)
    if side < LEAST_SIDE:
        raise SmallFaceError(
            f"expected a face of at least {LEAST_SIDE} pixels a side, got {_below(face.width, LEAST_SIDE)} x "
            f"{_below(face.height, LEAST_SIDE)}; give a larger photo, or one taken from nearer"
        )
    return face, tuple(notes)


def judge(face: Face, crop: Float[Tensor, "3 S S"]) -> tuple[float, tuple[Remark, ...]]:
    """Quality from 0 to 1, and warnings, of a face and its aligned crop.

    Quality is the product of five readings of at most 1: the detector's score, pixels, sharpness, light and frontality. It sorts
    photos of one person, and says nothing about likeness.
    """
    side, turned = min(face.width, face.height), abs(turn(face.landmarks))
    light, sharp = brightness(crop), sharpness(crop)
    warnings: list[Remark] = []
    if light < LEAST_LIGHT:
        got = _below(light, LEAST_LIGHT)
        words = f"very dark: brightness {got} of 255, expected at least {LEAST_LIGHT:.0f}; more light helps"
        warnings.append(Remark("dark", words))
    if sharp < LEAST_SHARPNESS:
        got = _below(sharp, LEAST_SHARPNESS)
        words = f"blurred: sharpness {got}, expected at least {LEAST_SHARPNESS:.0f}; a sharper photo helps"
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
        got = _below(face.score, SURE_SCORE, 2)
        words = f"hardly a face to the detector: score {got}, expected at least {SURE_SCORE}"
        words += "; a photo in which it is not covered helps"
        warnings.append(Remark("doubtful", words))
    readings = (face.score, side / GOOD_SIDE, sharp / GOOD_SHARPNESS, light / LEAST_LIGHT, 1 - turned)
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


def _people(look: Look, sure: float) -> list[Face]:
    """The faces that count as people: sure ones, and others that are not far smaller than the surest nor within a sure one.

    A detector that is set to report sure faces only overlooks people, and would make a picture of three one person's.
    """
    sure_ones = [face for face in look.faces if face.score >= sure]
    least = PART_OF_LARGEST * max(min(face.width, face.height) for face in sure_ones)
    doubtful = [face for face in look.faces if face.score < sure and min(face.width, face.height) >= least]
    return sure_ones + [face for face in doubtful if not any(_within(face, other) for other in sure_ones)]


def _within(face: Face, other: Face) -> bool:
    """Whether a face's middle lies in another's box."""
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return other.box[0] <= x <= other.box[2] and other.box[1] <= y <= other.box[3]


def _turned(look: Look) -> Remark:
    """What was done about a photo that does not stand upright.

    Raises:
        TurnedFaceError: the detector is not sure of any face in it.
    """
    assert look.best is not None
    if look.best.score < SURE_SCORE:
        raise TurnedFaceError(
            f"expected an upright face, got one that is found at a turn of {look.degrees} degrees only, with a score of "
            f"{look.best.score:.2f} (at least {SURE_SCORE} would be sure); turn the photo upright, or give another"
        )
    side = {90: "turned by 90 degrees to the left", 180: "turned upside down", 270: "turned by 90 degrees to the right"}
    return Remark("turned", f"the photo does not stand upright: its face was read {side[look.degrees]}")


def _below(value: float, limit: float | int, digits: int = 0) -> str:
    """A number below a limit with as many digits as it takes not to look like the limit: 63.7 is not 64."""
    while digits < 6 and float(f"{value:.{digits}f}") >= limit > value:
        digits += 1
    return f"{value:.{digits}f}"


def _look_with_margin(image: Image.Image, detector: Detector) -> list[Look]:
    """Looks at the photo with half its size added on each side, in pixels of the photo."""
    small = image.convert("RGB")
    small.thumbnail((_RETRY_SIDE, _RETRY_SIDE))  # never enlarges
    margin = np.array([small.width // 2, small.height // 2])
    padded = Image.new("RGB", (small.width + 2 * int(margin[0]), small.height + 2 * int(margin[1])))
    padded.paste(small, (int(margin[0]), int(margin[1])))
    scale = np.array([image.width / small.width, image.height / small.height])

    def in_photo(face: Face) -> Face:
        left, top, right, bottom = ((np.array(face.box).reshape(2, 2) - margin) * scale).ravel().tolist()
        return Face(box=(left, top, right, bottom), landmarks=(face.landmarks - margin) * scale, score=face.score)

    looks = look_four_ways(padded, detector)
    return [Look(degrees=look.degrees, faces=[in_photo(face) for face in look.faces]) for look in looks]
