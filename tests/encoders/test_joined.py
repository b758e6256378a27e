"""Encoders that are joined: every part's embedding, by its own photo, and a name that says both."""

import pytest
import torch

from lorasynth.encoders import Encoder, describe, same_encoder, to_image
from lorasynth.encoders.records import difference
from lorasynth.errors import OutsideWorldError, UsageError
from lorasynth.opening import open_encoder
from lorasynth.worlds.world import get_world

from ..tiny_pipelines import clip_folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("towers") / "clip")


@pytest.fixture(scope="module")
def joined(clip):
    return open_encoder(f"portraits+clip:{clip}")


@pytest.fixture(scope="module")
def photos():
    return [to_image(picture) for picture in get_world("portraits").draw([7, 8], [0, 0], 64)]


def test_embedding_is_that_of_each_part_side_by_side(joined, clip, photos):
    face, tower = open_encoder("portraits").embed(photos), open_encoder(f"clip:{clip}").embed(photos)
    embedding = joined.embed(photos)
    assert embedding.shape == (2, joined.dim) == (2, 512 + 12)
    torch.testing.assert_close(embedding * 2**0.5, torch.cat([face, tower], 1))
    mean_cosine = (face[0] @ face[1] + tower[0] @ tower[1]) / 2
    torch.testing.assert_close(embedding[0] @ embedding[1], mean_cosine)
    assert isinstance(joined, Encoder)
    assert joined.embed([]).shape == (0, joined.dim)


def test_record_tells_order_and_parts_apart(joined, clip):
    record = joined.record
    assert (record["kind"], record["name"], record["dim"]) == ("joined", "portraits + clip", 524)
    assert same_encoder(record, open_encoder(f"portraits + clip:{clip}").record)
    other_order = open_encoder(f"clip:{clip}+portraits").record
    assert "(1 config.json absent)" in difference(other_order, record)
    assert "kind joined" in difference(record, open_encoder("portraits").record)
    assert "Apache-2.0" in describe(record)
    assert str(clip) not in str(record)


def test_photo_that_one_part_cannot_embed_is_refused(joined):
    noise = to_image(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(OutsideWorldError, match=r"expected a picture of the world 'portraits'"):
        joined.embed([noise])


@pytest.mark.parametrize("spec", ["portraits+portraits", "portraits + portraits"])
def test_encoder_joined_with_itself_is_refused(spec):
    with pytest.raises(
        UsageError, match=r"expected two or more encoders to join, each once, got portraits \+ portraits"
    ):
        open_encoder(spec)


def test_name_without_one_side_is_refused():
    with pytest.raises(UsageError, match="expected an encoder: a world's name"):
        open_encoder("portraits+")


def test_folder_with_a_plus_in_its_name_is_one_encoder(tmp_path, clip):
    folder = (tmp_path / "a+b").symlink_to(clip) or tmp_path / "a+b"
    assert open_encoder(f"clip:{folder}").record["kind"] == "clip"
