import pytest

from lorasynth.encoders.licences import INSIGHTFACE, licence_of
from lorasynth.encoders.records import UNKNOWN_LICENCE


def card(folder, front):
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")


ANTELOPEV2 = "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf"
AURAFACE = "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60"
DET_10G = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
SFACE = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
YUNET = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
ANY = "0" * 64


@pytest.mark.parametrize(
    ("recogniser", "detector", "licence"),
    [
        (ANTELOPEV2, DET_10G, INSIGHTFACE),
        (AURAFACE, YUNET, "detector: MIT; recogniser: Apache-2.0"),
        (AURAFACE, DET_10G, f"detector: {INSIGHTFACE}; recogniser: Apache-2.0"),
        (SFACE, YUNET, "detector: MIT; recogniser: Apache-2.0"),
        (ANY, DET_10G, f"detector: {INSIGHTFACE}; recogniser: {UNKNOWN_LICENCE}"),
        (ANY, ANY, UNKNOWN_LICENCE),
    ],
)
def test_published_files_have_their_makers_licence(tmp_path, recogniser, detector, licence):
    assert licence_of({"recogniser": recogniser, "detector": detector}, tmp_path) == licence


def test_two_files_of_one_name_have_their_own_licences(tmp_path):
    """Both are published as glintr100.onnx."""
    assert licence_of({"recogniser": AURAFACE}, tmp_path) == "Apache-2.0"
    assert licence_of({"recogniser": ANTELOPEV2}, tmp_path) == INSIGHTFACE


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "; the model card says: mit"),
        ("license: other\nlicense_name: faces-1.0", "; the model card says: faces-1.0"),
        ("license: other", "; the model card says: other"),
        ("license: [mit]", ""),
        ("tags: [faces]", ""),
        ("license: [", ""),
        ("- a list", ""),
    ],
)
def test_model_card_is_quoted_and_not_believed(tmp_path, front, licence):
    card(tmp_path, front)
    assert licence_of({"weights": ANY}, tmp_path) == UNKNOWN_LICENCE + licence


def test_card_does_not_make_a_known_file_free(tmp_path):
    card(tmp_path, "license: mit")
    said = licence_of({"recogniser": ANTELOPEV2}, tmp_path)
    assert said == f"{INSIGHTFACE}; the model card says: mit"


def test_card_without_readable_front_matter_says_nothing(tmp_path):
    (tmp_path / "README.md").write_text("# license: mit\n")
    assert licence_of({"weights": ANY}, tmp_path) == UNKNOWN_LICENCE
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00---\nlicense: mit\n---\n")
    assert licence_of({"weights": ANY}, tmp_path) == UNKNOWN_LICENCE
