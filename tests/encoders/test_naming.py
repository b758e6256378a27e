"""One name, one encoder, whatever kind it is of."""

import pytest
import torch

from lorasynth.drawn.domain_check import DomainCheck
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders import Encoder, describe, to_image
from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.encoders.records import UNKNOWN_LICENCE
from lorasynth.errors import ModelError, OutsideWorldError, UsageError
from lorasynth.opening import open_encoder
from lorasynth.worlds.world import get_world


@pytest.fixture(scope="module")
def drawn():
    return open_encoder("portraits")


@pytest.fixture(scope="module")
def world():
    return get_world("portraits")


@pytest.mark.slow
def test_worlds_name_is_its_own_recogniser(drawn, world):
    pictures = world.draw([7, 8], [0, 0], 64)
    readings = drawn.read([to_image(picture) for picture in pictures])
    expected = world.embeddings([7, 8], 1)[:, 0]
    torch.testing.assert_close(torch.stack([r.embedding for r in readings]), expected, atol=0.02, rtol=0)  # of 8 bits
    assert isinstance(drawn, Encoder)
    assert (drawn.dim, drawn.image_size, drawn.embed([]).shape) == (512, 64, (0, 512))
    assert drawn.record["kind"] == "world"
    assert set(drawn.record["files"]) == {"recogniser"}
    assert "Apache-2.0" in describe(drawn.record)


@pytest.mark.slow
def test_guard_passes_pictures_of_its_world_and_no_noise(drawn, world):
    """People of the world's range of held-out ones, whom no training has seen."""
    drawn.read([to_image(picture) for picture in world.draw(list(range(200)), [0] * 200, 64)])
    noise = to_image(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(
        OutsideWorldError, match=r"^photo: expected a picture of the world 'portraits', got something else"
    ):
        drawn.read([noise])
    fine = to_image(world.draw([7], [0], 64)[0])
    with pytest.raises(OutsideWorldError, match=r"^photo 2 of 2: expected a picture of the world"):
        drawn.embed([fine, noise])
    assert drawn.read([noise], allow_outside=True)[0].embedding.norm() == pytest.approx(1, abs=1e-5)


def test_guard_that_is_given_is_the_one_that_guards(world):
    strict = DomainCheck(basis=torch.zeros(1, 768), mean=torch.zeros(768), limits=torch.zeros(3))
    with pytest.raises(OutsideWorldError, match="foreign structure"):
        WorldEncoder(world, guard=strict).read([to_image(world.draw([7], [0], 64)[0])])


def test_folder_and_file_are_called_by_names_not_paths(recogniser, red_scrfd, tmp_path):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    path = recogniser(name="face.onnx").rename(folder / "face.onnx")
    red_scrfd[0].rename(folder / "det.onnx")
    for spec, name in ((folder, "mine"), (f"{folder}/", "mine"), (path, "face.onnx"), (f"aligned:{path}", "face.onnx")):
        encoder = open_encoder(spec)
        assert isinstance(encoder, ArcFaceEncoder)
        assert encoder.record["name"] == name
        assert str(tmp_path) not in str(encoder.record)
    assert open_encoder(f"aligned:{folder}").detector is None


def test_hub_id_is_the_hubs_local_copy(recogniser, red_scrfd, tmp_path, monkeypatch):
    asked = []

    def local_copy(repo, kind, patterns):
        asked.append((repo, kind, set(patterns)))
        return tmp_path / "copy"

    (tmp_path / "copy").mkdir()
    recogniser(name="face.onnx").rename(tmp_path / "copy" / "face.onnx")
    red_scrfd[0].rename(tmp_path / "copy" / "det.onnx")
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("lorasynth.storage.hub.local_copy", local_copy)
    encoder = open_encoder("someone/faces")
    assert asked == [("someone/faces", "model", {"*.onnx", "README.md"})]
    assert (encoder.record["name"], encoder.record["licence"]) == (
        "someone/faces",
        f"{UNKNOWN_LICENCE}; the model card says: mit",
    )


def test_without_a_network_the_hub_is_named():
    with pytest.raises(ModelError, match=r"no/such: no such folder, and the hub could not give it"):
        open_encoder("clip:no/such")


@pytest.mark.parametrize("spec", ["nobody", "", "clip:", "aligned:none.onnx", "folder/none.onnx", "siglip:x/y", "a b"])
def test_what_is_no_name_is_refused_with_what_would_be_one(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"expected an encoder: a world's name \(portraits, emblems, brushes\), .* got no such thing"
    ):
        open_encoder(spec)


def test_tilde_is_the_home_also_behind_a_prefix(recogniser, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recogniser(name="mine.onnx")
    assert open_encoder("aligned:~/mine.onnx").record["name"] == "mine.onnx"
    with pytest.raises(UsageError, match="got no such thing; check the path"):
        open_encoder("~nobody-is-called-so/mine.onnx")


def test_installed_pack_is_pointed_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".insightface" / "models" / "buffalo_l").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"insightface has one at .*\.insightface/models/buffalo_l"):
        open_encoder("buffalo_l")
