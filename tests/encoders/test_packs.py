"""Folders of face models, as they are published: which file is which is read off the files."""

import re
import shutil
import zipfile

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from lorasynth.encoders.detectors import Scrfd, YuNet
from lorasynth.encoders.graphs import Graph, signature
from lorasynth.encoders.packs import open_pack, role_of
from lorasynth.encoders.records import UNKNOWN_LICENCE
from lorasynth.errors import ModelError


@pytest.fixture
def head(save_graph):
    """A network of one picture in and some numbers out: insightface's of landmarks, age and gender are such."""

    def write(name, size, numbers):
        nodes = [
            helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["fc1"]),
        ]
        matrix = helper.make_tensor("matrix", 1, [3, numbers], np.zeros(3 * numbers))
        return save_graph(nodes, [("data", [None, 3, size, size])], [("fc1", [1, numbers])], [matrix], name)

    return write


@pytest.fixture
def buffalo(tmp_path, recogniser, red_scrfd, head):
    """What buffalo_l holds, with small networks."""
    folder = tmp_path / "buffalo_l"
    folder.mkdir()
    red_scrfd[0].rename(folder / "det_10g.onnx")
    files = {"w600k_r50.onnx": recogniser(), "genderage.onnx": head("g.onnx", 96, 3)}
    files |= {"2d106det.onnx": head("2.onnx", 192, 212), "1k3d68.onnx": head("1.onnx", 192, 3309)}
    for name, path in files.items():
        path.rename(folder / name)
    return folder


def photo_of_red_face():
    photo = Image.new("RGB", (640, 640), "grey")
    photo.paste("red", (320, 320, 352, 352))
    return photo


def test_of_published_pack_recogniser_and_detector_are_taken(buffalo):
    encoder = open_pack(buffalo, name="buffalo_l")
    assert encoder.graph.path.name == "w600k_r50.onnx"
    assert isinstance(encoder.detector, Scrfd)
    assert encoder.record["licence"] == UNKNOWN_LICENCE  # a name is no licence
    assert encoder.record["name"] == "buffalo_l"
    assert encoder.record["detector"] == "Scrfd"
    (reading,) = encoder.read([photo_of_red_face()])
    assert reading.quality is not None


def test_recognisers_file_goes_with_the_detector_beside_it(buffalo):
    by_file = open_pack(buffalo / "w600k_r50.onnx", name="mine")
    by_folder = open_pack(buffalo, name="buffalo_l")
    assert by_file.record["files"] == by_folder.record["files"]
    photo = photo_of_red_face()
    assert by_file.embed([photo]).equal(by_folder.embed([photo]))


def test_opencv_pair_is_known_by_shapes_and_takes_raw_pixels(tmp_path, recogniser, red_yunet):
    folder = tmp_path / "zoo"
    folder.mkdir()
    recogniser().rename(folder / "face_recognition_sface_2021dec.onnx")
    red_yunet[0].rename(folder / "face_detection_yunet_2023mar.onnx")
    encoder = open_pack(folder, name="zoo")
    assert isinstance(encoder.detector, YuNet)
    assert (encoder.pixels, encoder.record["licence"]) == ("raw", UNKNOWN_LICENCE)
    assert encoder.record["detector"] == "YuNet"


def test_aligned_photos_need_no_detector(tmp_path, recogniser):
    path = recogniser(name="mine.onnx")
    with pytest.raises(
        ModelError, match=r"expected one detector, got none among mine\.onnx; lay det_10g.onnx .* say aligned:FILE"
    ):
        open_pack(path, name="mine")
    encoder = open_pack(path, name="mine", aligned=True)
    assert encoder.detector is None
    assert encoder.record["detector"] is None


def test_what_is_missing_or_there_twice_is_named(buffalo, recogniser, tmp_path):
    (buffalo / "other.onnx").write_bytes((buffalo / "w600k_r50.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"one recogniser, got other.onnx, w600k_r50.onnx; name the file instead"):
        open_pack(buffalo, name="x")
    open_pack(buffalo / "other.onnx", name="x")
    (buffalo / "other.onnx").write_bytes((buffalo / "det_10g.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"one detector, got det_10g.onnx, other.onnx; move all but one detector"):
        open_pack(buffalo, name="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"one recogniser, got none among no \.onnx files; give a folder with w600k"):
        open_pack(tmp_path / "empty", name="x")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="say clip:FOLDER or dinov2:FOLDER"):
        open_pack(tmp_path / "empty", name="x")


def test_detector_given_as_a_recogniser_is_refused(buffalo):
    with pytest.raises(ModelError, match="expected a recogniser"):
        open_pack(buffalo / "det_10g.onnx", name="x")


def test_files_that_are_no_models_are_named_where_they_are_meant(buffalo):
    (buffalo / "page.onnx").write_text("<html>")
    open_pack(buffalo, name="x")
    with pytest.raises(ModelError, match="expected an ONNX file, got HTML"):
        open_pack(buffalo / "page.onnx", name="x")
    (buffalo / "page.onnx").write_bytes(b"")
    open_pack(buffalo, name="x")
    with pytest.raises(ModelError, match=r"page\.onnx: expected an ONNX file, got none \(cannot mmap an empty file\)"):
        open_pack(buffalo / "page.onnx", name="x")


def test_pack_is_found_one_folder_further_in(buffalo, tmp_path):
    outer = tmp_path / "antelopev2"
    outer.mkdir()
    (outer / "__MACOSX").mkdir()
    buffalo.rename(outer / "antelopev2")
    (outer / "antelopev2" / "._w600k_r50.onnx").write_bytes(b"traces")
    (outer / "antelopev2" / "w600k_r50.onnx").rename(outer / "antelopev2" / "W600K.ONNX")
    assert open_pack(outer, name="antelopev2").graph.path == outer / "antelopev2" / "W600K.ONNX"
    shutil.copytree(outer / "antelopev2", outer / "buffalo_l")
    with pytest.raises(
        ModelError, match=r"got several: .*antelopev2/antelopev2, .*antelopev2/buffalo_l; name one of them"
    ):
        open_pack(outer, name="x")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-40], lambda content: bytes(range(7, 107)), lambda content: b""]
)
def test_damaged_model_is_named_and_to_be_got_again(buffalo, damage):
    for name in ("w600k_r50.onnx", "det_10g.onnx"):
        content = (buffalo / name).read_bytes()
        (buffalo / name).write_bytes(damage(content))
        with pytest.raises(
            ModelError, match=rf"got none, and 1 that cannot be read \({name}\); {name}: .*get the file again"
        ):
            open_pack(buffalo, name="x")
        if name.startswith("w600k"):
            with pytest.raises(ModelError, match=rf"{name}: expected an ONNX file.*get the file again"):
                open_pack(buffalo / name, name="x")
        (buffalo / name).write_bytes(content)


def test_archive_is_to_be_unpacked(buffalo, tmp_path):
    archive = tmp_path / "packs" / "buffalo_l.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(buffalo / "w600k_r50.onnx", "w600k_r50.onnx")
    for path in (archive, archive.parent):
        with pytest.raises(
            ModelError, match=r"buffalo_l\.zip: expected a folder or file of ONNX models, got an archive; unpack"
        ):
            open_pack(path, name="x")


# The shapes of a file, read without its weights.


def test_signature_says_what_onnxruntime_says(buffalo, red_yunet):
    for path in [*buffalo.iterdir(), red_yunet[0]]:
        graph, found = Graph(path), signature(path)
        assert found.inputs == (graph.input_shape,)
        assert list(found.outputs) == graph.output_shapes
    assert {p.name: role_of(p) for p in buffalo.iterdir()} == {
        "w600k_r50.onnx": "recogniser",
        "det_10g.onnx": "SCRFD",
        "genderage.onnx": None,
        "2d106det.onnx": None,
        "1k3d68.onnx": None,
    }


def test_weights_listed_among_the_inputs_are_none(save_graph):
    nodes = [helper.make_node("Mul", ["data", "weight"], ["out"])]
    weight = helper.make_tensor("weight", 1, [1], [2.0])
    path = save_graph(nodes, [("data", ["N", 3, 8, 8]), ("weight", [1])], [("out", ["N", 3, 8, 8])], [weight])
    assert signature(path).inputs == ((None, 3, 8, 8),)


@pytest.mark.parametrize("content", [b"\x00", b"<html>", b"PK\x03\x04", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_not_onnx_has_no_signature(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    assert signature(tmp_path / "x.onnx") is None


def test_file_cut_off_anywhere_is_no_crash(buffalo, tmp_path):
    content = (buffalo / "w600k_r50.onnx").read_bytes()
    for length in range(1, len(content)):
        (tmp_path / "x.onnx").write_bytes(content[:length])
        role_of(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=re.escape("none.onnx: expected an ONNX file, got none (No such file")):
        role_of(tmp_path / "none.onnx")
