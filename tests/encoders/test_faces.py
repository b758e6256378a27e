import re

import numpy as np
import pytest
import torch
from PIL import Image

from lorasynth.encoders.alignment import TEMPLATE_112
from lorasynth.encoders.detectors import Face
from lorasynth.encoders.faces import find_face, judge
from lorasynth.errors import ModelError, NoFaceError, SeveralFacesError, SmallFaceError, UsageError

PHOTO = Image.new("RGB", (400, 300))


def face(left=0.0, top=0.0, width=100.0, height=120.0, landmarks=TEMPLATE_112, score=1.0) -> Face:
    return Face(
        box=(float(left), float(top), float(left + width), float(top + height)), landmarks=landmarks, score=score
    )


class Sees:
    """A detector that reports given faces, to pictures of at least some width."""

    def __init__(self, *faces, from_width=0):
        self.faces, self.from_width, self.widths = list(faces), from_width, []

    def detect(self, image):
        self.widths.append(image.width)
        return self.faces if image.width >= self.from_width else []


def test_one_face_is_taken_without_a_word():
    only = face()
    assert find_face(PHOTO, Sees(only)) == (only, ())


def test_no_face_is_refused_after_one_retry_with_a_margin():
    detector = Sees()
    with pytest.raises(NoFaceError, match="expected a face, got none in 400 x 300 pixels, nor with a margin"):
        find_face(PHOTO, detector)
    assert detector.widths == [400, 800]


def test_a_face_that_fills_the_frame_is_found_with_a_margin_and_noted():
    padded = face(left=190, top=140, width=420, height=320, landmarks=TEMPLATE_112 + np.array([200, 150]))
    found, notes = find_face(PHOTO, Sees(padded, from_width=800))
    np.testing.assert_allclose(found.box, [-10, -10, 410, 310])
    np.testing.assert_allclose(found.landmarks, TEMPLATE_112)
    assert len(notes) == 1
    assert "fills the frame" in notes[0]


def test_the_margin_of_a_large_photo_stays_small_and_its_coordinates_are_the_photos():
    large = Image.new("RGB", (5120, 2560))
    detector = Sees(face(left=640, top=320, landmarks=TEMPLATE_112 + np.array([640, 320])))
    detector.detect = lambda image: detector.faces if image.width == 2560 else []
    found, _ = find_face(large, detector)
    np.testing.assert_allclose(found.box, [0, 0, 400, 480])
    np.testing.assert_allclose(found.landmarks, 4 * TEMPLATE_112)


SEVERAL = (face(left=200), face(left=0, width=90), face(left=100, width=150))


def test_several_faces_are_listed_from_left_to_right_and_never_chosen_silently():
    said = "expected one face, got 3: 0 at left 0, top 0, 90 x 120 pixels; 1 at left 100, top 0, 150 x 120 pixels; 2 at left 200"
    with pytest.raises(SeveralFacesError, match=re.escape(said)):
        find_face(PHOTO, Sees(*SEVERAL))


@pytest.mark.parametrize(("choice", "left"), [("largest", 100), (0, 0), (1, 100), (2, 200)])
def test_a_choice_among_several_is_obeyed_and_noted(choice, left):
    found, notes = find_face(PHOTO, Sees(*SEVERAL), choice)
    assert found.box[0] == left
    assert "of 3 faces was taken" in notes[0]


@pytest.mark.parametrize("choice", [3, -1])
def test_a_face_that_is_not_there_is_refused(choice):
    with pytest.raises(UsageError, match=f"expected face='largest' or a number of the faces 0 at .* got {choice}"):
        find_face(PHOTO, Sees(*SEVERAL), choice)


def test_a_small_face_is_refused():
    with pytest.raises(SmallFaceError, match="expected a face of at least 64 pixels a side, got 63 x 90"):
        find_face(PHOTO, Sees(face(width=63, height=90)))


def test_a_detector_that_is_broken_is_not_the_photos_fault():
    with pytest.raises(ModelError, match="not finite"):
        find_face(PHOTO, Sees(face(landmarks=np.full((5, 2), np.nan))))


def sharp_crop():
    return torch.rand(3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_a_good_face_has_full_quality_and_no_warning():
    quality, warnings = judge(face(width=300, height=300), sharp_crop())
    assert quality > 0.98
    assert warnings == ()


def test_blur_and_profile_are_warned_of_and_lower_the_quality():
    quality, (warning,) = judge(face(), torch.full((3, 112, 112), 0.5))
    assert quality == 0
    assert warning.startswith("blurred: sharpness 0, expected at least 30")
    profile = TEMPLATE_112.copy()
    profile[2, 0] += 25
    quality, (warning,) = judge(face(landmarks=profile), sharp_crop())
    assert quality < 0.4
    assert warning.startswith("in profile")


# A cartoon's: large eyes far apart, a small mouth; and small eyes close together over a wide one.
CARTOON = np.array([[30.0, 60], [82, 60], [56, 78], [50, 88], [62, 88]])
WIDE_MOUTH = np.array([[40.0, 40], [60, 40], [50, 55], [25, 85], [75, 85]])


@pytest.mark.parametrize("landmarks", [CARTOON, 3 * WIDE_MOUTH + 70])
def test_a_face_of_a_drawings_proportions_is_warned_of(landmarks):
    _, (warning,) = judge(face(landmarks=landmarks), sharp_crop())
    assert re.match(
        r"drawn, or seen steeply .* lie 0\.2\d eye distances from a face's, expected at most 0\.2;", warning
    )


def test_a_face_that_the_detector_hardly_believes_in_is_warned_of():
    """A mask, a hand, a drawing, a statue: only the detector's own doubt shows it."""
    _, (warning,) = judge(face(width=200, height=200, score=0.55), sharp_crop())
    assert warning.startswith("hardly a face to the detector: score 0.55, expected at least 0.65")
    assert judge(face(width=200, height=200, score=0.7), sharp_crop())[1] == ()


def test_quality_falls_with_size_and_score():
    crop = sharp_crop()
    best = judge(face(width=200, height=200), crop)[0]
    assert judge(face(width=80, height=100), crop)[0] < best
    assert judge(face(width=200, height=200, score=0.6), crop)[0] == pytest.approx(0.6 * best)
