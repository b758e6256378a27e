import re

import numpy as np
import pytest
import torch
from PIL import Image

from lorasynth.encoders.alignment import TEMPLATE_112, align
from lorasynth.encoders.detectors import Face
from lorasynth.encoders.faces import find_face, judge
from lorasynth.errors import ModelError, NoFaceError, SeveralFacesError, SmallFaceError, TurnedFaceError, UsageError

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
    assert detector.widths == [400, 300, 400, 300, 800, 600, 800, 600]  # four ways up, without and with the margin


def test_face_that_fills_frame_is_found_with_margin_and_noted():
    padded = face(left=190, top=140, width=420, height=320, landmarks=TEMPLATE_112 + np.array([200, 150]))
    found, notes = find_face(PHOTO, Sees(padded, from_width=800))
    np.testing.assert_allclose(found.box, [-10, -10, 410, 310])
    np.testing.assert_allclose(found.landmarks, TEMPLATE_112)
    assert len(notes) == 1
    assert "fills the frame" in notes[0]


def test_margin_of_a_large_photo_stays_small_in_its_coordinates():
    large = Image.new("RGB", (5120, 2560))
    detector = Sees(face(left=640, top=320, landmarks=TEMPLATE_112 + np.array([640, 320])))
    detector.detect = lambda image: detector.faces if image.size == (2560, 1280) else []
    found, _ = find_face(large, detector)
    np.testing.assert_allclose(found.box, [0, 0, 400, 480])
    np.testing.assert_allclose(found.landmarks, 4 * TEMPLATE_112)


SEVERAL = (face(left=200), face(left=0, width=90), face(left=100, width=150))


def test_several_faces_are_listed_and_never_chosen_silently():
    said = "expected one face, got 3: 0 at left 0, top 0, 90 x 120 pixels; 1 at left 100, top 0, 150 x 120 pixels; 2 at left 200"
    with pytest.raises(SeveralFacesError, match=re.escape(said)):
        find_face(PHOTO, Sees(*SEVERAL))


@pytest.mark.parametrize(("choice", "left"), [("largest", 100), (0, 0), (1, 100), (2, 200)])
def test_choice_among_several_is_obeyed_and_noted(choice, left):
    found, notes = find_face(PHOTO, Sees(*SEVERAL), choice)
    assert found.box[0] == left
    assert "of 3 faces was taken" in notes[0]


@pytest.mark.parametrize("choice", [3, -1])
def test_face_that_is_not_there_is_refused(choice):
    with pytest.raises(UsageError, match=f"expected face='largest' or a number of the faces 0 at .* got {choice}"):
        find_face(PHOTO, Sees(*SEVERAL), choice)


def test_small_face_is_refused():
    with pytest.raises(SmallFaceError, match="expected a face of at least 64 pixels a side, got 63 x 90"):
        find_face(PHOTO, Sees(face(width=63, height=90)))


def test_detector_that_is_broken_is_not_the_photos_fault():
    with pytest.raises(ModelError, match="not finite"):
        find_face(PHOTO, Sees(face(landmarks=np.full((5, 2), np.nan))))


def sharp_crop():
    return torch.rand(3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_good_face_has_full_quality_and_no_warning():
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
def test_face_of_a_drawings_proportions_is_warned_of(landmarks):
    _, (warning,) = judge(face(landmarks=landmarks), sharp_crop())
    assert re.match(
        r"drawn, or seen steeply .* lie 0\.2\d eye distances from a face's, expected at most 0\.2;", warning
    )


def test_face_that_detector_hardly_believes_in_is_warned_of():
    """A mask, a hand, a drawing, a statue: only the detector's own doubt shows it."""
    _, (warning,) = judge(face(width=200, height=200, score=0.55), sharp_crop())
    assert warning.startswith("hardly a face to the detector: score 0.55, expected at least 0.65")
    assert judge(face(width=200, height=200, score=0.7), sharp_crop())[1] == ()


def test_quality_falls_with_size_and_score():
    crop = sharp_crop()
    best = judge(face(width=200, height=200), crop)[0]
    assert judge(face(width=80, height=100), crop)[0] < best
    assert judge(face(width=200, height=200, score=0.6), crop)[0] == pytest.approx(0.6 * best)


# Photos that do not stand upright.

LYING = np.array([[120.0, 90], [180, 92], [150, 130], [128, 165], [176, 164]])


class SeesUprightFaces:
    """As SCRFD: a face that lies has a lower score, and landmarks as if it stood. A red corner marks upright."""

    def __init__(self, upright=0.9, lying=0.7, others=()):
        self.upright, self.lying, self.others = upright, lying, others

    def detect(self, image):
        stands = image.getpixel((0, 0)) == (255, 0, 0)
        score = self.upright if stands else self.lying
        box = (100.0, 60.0, 200.0, 190.0)
        found = [Face(box=box, landmarks=LYING, score=score)] if score else []
        return found + (list(self.others) if stands else [])


def marked(size=(400, 300)):
    """A photo whose upper left corner, when it stands upright, is red."""
    photo = Image.new("RGB", size)
    photo.putpixel((0, 0), (255, 0, 0))
    return photo


TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize(
    ("degrees", "said"), [(90, "90 degrees to the right"), (180, "upside down"), (270, "90 degrees to the left")]
)
def test_face_that_lies_is_read_as_it_stands_and_noted(degrees, said):
    photo = marked()
    expected = align(photo, LYING)
    lying = photo.transpose(TURNS[degrees])
    found, (note,) = find_face(lying, SeesUprightFaces())
    assert note.code == "turned"
    assert said in note
    torch.testing.assert_close(align(lying, found.landmarks), expected, atol=1e-4, rtol=0)
    assert {round(found.width), round(found.height)} == {100, 130}
    left, top, right, bottom = found.box
    assert 0 <= left < right <= lying.width
    assert 0 <= top < bottom <= lying.height


def test_face_that_stands_is_read_without_a_note():
    assert find_face(marked(), SeesUprightFaces())[1] == ()


def test_face_found_in_turned_photo_only_and_unsurely_is_refused():
    lying = marked().transpose(Image.Transpose.ROTATE_90)
    with pytest.raises(
        TurnedFaceError, match=r"found at a turn of 270 degrees only, with a score of 0\.60 .*; turn the photo"
    ):
        find_face(lying, SeesUprightFaces(upright=0.6, lying=0))
    assert TurnedFaceError.code == "turned-face"


def test_photo_as_it_is_goes_before_turns_that_see_same_face():
    class SeesAllWays:
        """A detector whose landmarks are right whichever way up, and whose scores are not."""

        def detect(self, image):
            w, h = 399, 299
            x, y = LYING.T
            points = {0: (x, y), 1: (y, w - x), 2: (w - x, h - y), 3: (h - y, x)}[_turns_of(image)]
            landmarks = np.stack(points, axis=1)
            left, top, right, bottom = *landmarks.min(0) - 30, *landmarks.max(0) + 30
            return [Face(box=(left, top, right, bottom), landmarks=landmarks, score=0.6 + 0.1 * _turns_of(image))]

    found, notes = find_face(marked(), SeesAllWays())
    np.testing.assert_allclose(found.landmarks, LYING)
    assert notes == ()


def _turns_of(image):
    """By how many quarters to the left a marked photo was turned."""
    corners = [(0, 0), (0, image.height - 1), (image.width - 1, image.height - 1), (image.width - 1, 0)]
    return next(turns for turns, corner in enumerate(corners) if image.getpixel(corner) == (255, 0, 0))


# People whom the detector hardly sees.


class SeesSurely(Sees):
    """As YuNet: faces from 0.9 are sure."""

    sure_score = 0.9


def test_people_whom_the_detector_doubts_are_several_people_too():
    one, doubted = face(score=0.95), face(left=200, score=0.6)
    with pytest.raises(SeveralFacesError, match="expected one face, got 2"):
        find_face(PHOTO, SeesSurely(one, doubted))
    assert find_face(PHOTO, SeesSurely(one, doubted), "largest")[1][0].code == "chosen"


def test_small_patterns_and_one_face_twice_are_no_people():
    one = face(score=0.95)
    pattern, again = face(left=200, width=20, height=20, score=0.6), face(left=10, width=90, score=0.6)
    assert find_face(PHOTO, SeesSurely(one, pattern, again)) == (one, ())


def test_photo_of_doubted_faces_only_shows_none():
    with pytest.raises(NoFaceError, match="expected a face, got none"):
        find_face(PHOTO, SeesSurely(face(score=0.8)))


# Sentences and readings.


def test_small_face_is_not_called_as_large_as_the_limit():
    with pytest.raises(SmallFaceError, match=r"at least 64 pixels a side, got 63\.7 x 90;"):
        find_face(PHOTO, Sees(face(width=63.7, height=90)))
    _, (warning,) = judge(face(width=200, height=200, score=0.6496), sharp_crop())
    assert "score 0.6496, expected at least 0.65" in warning


def test_very_dark_face_is_dark_and_not_blurred():
    for factor in (0.15, 0.05):
        quality, (warning,) = judge(face(width=300, height=300), factor * sharp_crop())
        assert (warning.code, quality < 0.9) == ("dark", True)
        assert re.match(r"very dark: brightness \d+ of 255, expected at least 25", warning)
    dark_and_blurred = judge(face(), 0.1 * torch.full((3, 112, 112), 0.5))[1]
    assert [warning.code for warning in dark_and_blurred] == ["dark", "blurred"]
