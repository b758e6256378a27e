import re
import sys

import numpy as np
import pytest
from PIL import Image

from lorasynth.encoders.detectors import Detector, Scrfd, YuNet, decode_scrfd, suppress
from lorasynth.errors import MissingExtraError, ModelError

OFFSETS = np.arange(10) / 10


def face(stride=16, column=10, row=20, anchor=0, score=0.9, distances=(3, 4, 3, 5)):
    """One face as SCRFD's outputs say it."""
    return (stride, column, row, anchor, score, distances, OFFSETS)


# SCRFD.


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("anchor", [0, 1])
@pytest.mark.parametrize("batch_axis", [False, True])
def test_distances_in_strides_become_pixels(constant_scrfd, stride, anchor, batch_axis):
    detector = Scrfd(constant_scrfd([face(stride, 5, 7, anchor)], batch_axis=batch_axis))
    (found,) = detector.detect(Image.new("RGB", (640, 640)))
    np.testing.assert_allclose(np.array(found.box) / stride, [5 - 3, 7 - 4, 5 + 3, 7 + 5], rtol=1e-6)
    np.testing.assert_allclose(found.landmarks / stride, OFFSETS.reshape(5, 2) + np.array([5, 7]), rtol=1e-6)
    assert found.score == pytest.approx(0.9)
    assert isinstance(detector, Detector)


@pytest.mark.parametrize("size", [(1280, 960), (960, 1280), (320, 100), (641, 333)])
def test_coordinates_are_the_photos_after_the_letterbox(constant_scrfd, size):
    (found,) = Scrfd(constant_scrfd([face()])).detect(Image.new("RGB", size))
    ratio = max(size) / 640
    np.testing.assert_allclose(found.box, np.array([7, 16, 13, 25]) * 16 * ratio, rtol=0.01)


def test_graph_of_another_fixed_size_is_fed_that_size(constant_scrfd):
    detector = Scrfd(constant_scrfd([face(16, 5, 5, distances=(1, 1, 1, 1))], size=320))
    (found,) = detector.detect(Image.new("RGB", (640, 640)))
    np.testing.assert_allclose(found.box, np.array([4, 4, 6, 6]) * 16 * 2)


def test_of_overlapping_boxes_best_counts_and_distant_ones_stay(constant_scrfd):
    detector = Scrfd(
        constant_scrfd(
            [
                face(score=0.8),
                face(column=11, score=0.95),  # a cell beside it: overlaps by 5/7
                face(anchor=1, score=0.7),
                face(column=30, score=0.6),
                face(column=30, row=5, score=0.4),  # below the least score
            ]
        )
    )
    assert [f.score for f in detector.detect(Image.new("RGB", (640, 640)))] == pytest.approx([0.95, 0.6])


def test_no_face_is_an_empty_list(constant_scrfd):
    assert Scrfd(constant_scrfd([])).detect(Image.new("RGB", (640, 640))) == []


def red_square(size):
    """A grey photo with a red square that is one cell of 32 once the photo is shrunk; its left, top and side."""
    ratio = max(size) // 640
    left, top, side = 160 * ratio, 224 * ratio, 32 * ratio
    photo = Image.new("RGB", size, "grey")
    photo.paste("red", (left, top, left + side, top + side))
    return photo, left, top, side


@pytest.mark.parametrize("size", [(1280, 960), (960, 1280), (640, 640)])
def test_detector_that_looks_finds_what_is_drawn(red_scrfd, size):
    path, offsets = red_scrfd
    photo, left, top, side = red_square(size)
    (found,) = Scrfd(path).detect(photo)
    np.testing.assert_allclose(found.box, [left - 2 * side, top - 2 * side, left + 2 * side, top + 2 * side], rtol=1e-6)
    np.testing.assert_allclose(found.landmarks, offsets.reshape(5, 2) * side + [left, top], rtol=1e-5)


def test_detector_is_fed_rgb_and_not_bgr(red_scrfd):
    photo = Image.new("RGB", (640, 640), "grey")
    photo.paste("blue", (160, 224, 192, 256))
    assert Scrfd(red_scrfd[0]).detect(photo) == []


def test_suppression_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    generator = np.random.default_rng(0)
    corner, side, scores = generator.uniform(0, 200, (60, 2)), generator.uniform(20, 90, (60, 2)), generator.random(60)
    kept = suppress(np.concatenate([corner, corner + side], axis=1), scores, 0.4)
    assert 1 < len(kept) < 60
    expected = cv2.dnn.NMSBoxes(np.concatenate([corner, side], axis=1).tolist(), scores.tolist(), 0.0, 0.4)
    assert kept.tolist() == list(expected)


def test_outputs_of_a_wrong_length_are_named():
    with pytest.raises(ValueError, match=re.escape("expected outputs of [12800, 3200, 800] rows")):
        decode_scrfd([np.zeros((7, width), np.float32) for width in (1, 1, 1, 4, 4, 4, 10, 10, 10)], 640)


def test_output_that_is_not_finite_is_named(constant_scrfd):
    with pytest.raises(ModelError, match=r"net\.onnx: the detector's output is not finite"):
        Scrfd(constant_scrfd([face(score=np.nan)])).detect(Image.new("RGB", (640, 640)))


def test_recogniser_is_no_detector(recogniser):
    with pytest.raises(ModelError, match=r"expected SCRFD with landmarks .* and 1 outputs; give det_10g"):
        Scrfd(recogniser())


def test_without_the_extra_it_is_named(monkeypatch, constant_scrfd, tmp_path):
    path = constant_scrfd([])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorasynth\[face\]'"):
        Scrfd(path)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorasynth\[face\]'"):
        YuNet(tmp_path / "yunet.onnx")


# YuNet: a graph with its twelve outputs, run by OpenCV's own class.


@pytest.mark.parametrize("size", [(1280, 960), (960, 1280), (640, 640)])
def test_yunet_finds_what_is_drawn_where_it_is_drawn(red_yunet, size):
    path, points = red_yunet
    photo, left, top, side = red_square(size)
    detector = YuNet(path)
    (found,) = detector.detect(photo)
    box = [left - side / 2, top - side, left + 1.5 * side, top + 2 * side]
    np.testing.assert_allclose(found.box, box, rtol=1e-4)
    np.testing.assert_allclose(found.landmarks, np.reshape(points, (5, 2)) * side + [left, top], rtol=1e-4)
    assert found.score == pytest.approx(1, abs=0.02)  # the shrunken photo has soft edges
    assert detector.detect(Image.new("RGB", size, "grey")) == []


def test_file_that_is_not_yunets_is_named(tmp_path, recogniser):
    with pytest.raises(ModelError, match="got no such file; check the path"):
        YuNet(tmp_path / "none.onnx")
    (tmp_path / "page.onnx").write_text("<html></html>")
    with pytest.raises(ModelError, match=r"page\.onnx: expected YuNet's ONNX file") as caught:
        YuNet(tmp_path / "page.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"net\.onnx"):
        YuNet(recogniser()).detect(Image.new("RGB", (64, 64)))
