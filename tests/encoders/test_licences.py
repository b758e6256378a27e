from pathlib import Path

import pytest

from lorasynth.encoders.licences import INSIGHTFACE, licence_of
from lorasynth.encoders.records import UNKNOWN_LICENCE


def card(folder, front):
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "licence"),
    [
        (("w600k_r50.onnx", "det_10g.onnx"), INSIGHTFACE),
        (("glintr100.onnx", "scrfd_10g_bnkps.onnx"), INSIGHTFACE),
        (
            ("face_recognition_sface_2021dec.onnx", "face_detection_yunet_2023mar.onnx"),
            "detector: MIT; recogniser: Apache-2.0",
        ),
        (("mine.onnx", "det_10g.onnx"), f"detector: {INSIGHTFACE}; recogniser: {UNKNOWN_LICENCE}"),
        (("mine.onnx", "found.onnx"), UNKNOWN_LICENCE),
    ],
)
def test_known_files_have_their_makers_licence(tmp_path, names, licence):
    files = dict(zip(("recogniser", "detector"), map(Path, names), strict=True))
    assert licence_of(files, tmp_path, "models") == licence


@pytest.mark.parametrize("name", ["buffalo_l", "antelopev2", "someone/antelopev2"])
def test_a_known_pack_is_known_by_its_own_name(tmp_path, name):
    assert licence_of({"recogniser": Path("renamed.onnx")}, tmp_path, name) == INSIGHTFACE


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ("license: other\nlicense_name: faces-1.0", "faces-1.0"),
        ("license: other", "other"),
        ("license: [mit]", UNKNOWN_LICENCE),
        ("tags: [faces]", UNKNOWN_LICENCE),
        ("license: [", UNKNOWN_LICENCE),
        ("- a list", UNKNOWN_LICENCE),
    ],
)
def test_else_the_model_card_is_believed(tmp_path, front, licence):
    card(tmp_path, front)
    assert licence_of({"weights": Path("model.safetensors")}, tmp_path, "mine") == licence


def test_a_card_does_not_make_a_known_file_free(tmp_path):
    card(tmp_path, "license: mit")
    said = licence_of({"recogniser": Path("w600k_r50.onnx")}, tmp_path, "mine")
    assert said == f"{INSIGHTFACE}; the model card says: mit"


def test_a_card_without_front_matter_or_in_no_language_says_nothing(tmp_path):
    (tmp_path / "README.md").write_text("# license: mit\n")
    assert licence_of({"weights": Path("x")}, tmp_path, "mine") == UNKNOWN_LICENCE
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00---\nlicense: mit\n---\n")
    assert licence_of({"weights": Path("x")}, tmp_path, "mine") == UNKNOWN_LICENCE
