import weakref

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lorasynth.encoders import (
    Encoder,
    Reading,
    outliers,
    pool,
    pool_readings,
    protocol,
    read_all,
    read_each,
    read_photo,
)
from lorasynth.encoders.arcface import ArcFaceEncoder
from lorasynth.errors import NoFaceError, PhotoError
from lorasynth.opening import open_encoder


def unit(rows: int, dim: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows)), dim=1)


def test_one_photo_is_pooled_to_itself():
    embedding = unit(1)
    torch.testing.assert_close(pool(embedding), embedding[0])


def test_pooled_vector_is_unit_vector_with_largest_summed_cosine():
    embeddings = unit(5)
    pooled = pool(embeddings)
    torch.testing.assert_close(pooled.norm(), torch.tensor(1.0))
    assert (embeddings @ pooled).sum() > (embeddings @ unit(2000).T).sum(dim=0).max()


def test_order_of_photos_does_not_matter():
    embeddings = unit(4)
    torch.testing.assert_close(pool(embeddings), pool(embeddings.flip(0)))


def test_no_photo_is_an_error():
    with pytest.raises(PhotoError, match="at least one photo to pool, got none"):
        pool(torch.zeros(0, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embedding_that_is_not_finite_is_named(value):
    embeddings = unit(3)
    embeddings[1, 2] = value
    with pytest.raises(PhotoError, match="photo 2 of 3 is not finite"):
        pool(embeddings)


def test_photos_that_cancel_out_are_an_error():
    embedding = unit(1)
    with pytest.raises(PhotoError, match="expected photos of one person, got 2 embeddings"):
        pool(torch.cat([embedding, -embedding]))


def test_any_class_with_the_five_members_is_an_encoder():
    class Constant:
        dim, image_size, record = 4, 64, {"kind": "constant"}

        def read(self, images):
            return [Reading(embedding=row, quality=None) for row in self.embed(images)]

        def embed(self, images):
            return torch.ones(len(images), 4) / 2

    assert isinstance(Constant(), Encoder)
    assert not isinstance(object(), Encoder)


def test_outliers_are_those_that_do_not_look_like_the_others():
    person = F.normalize(torch.tensor([[1.0, 0.1, 0], [1, -0.1, 0], [0, 0, 1], [1, 0, 0.1]]), dim=1)
    ((index, cosine),) = outliers(person)
    assert index == 2
    assert cosine == pytest.approx(float(person[2] @ F.normalize(person[[0, 1, 3]].sum(0), dim=0)))
    assert outliers(person[[0, 1, 3]]) == []


def test_two_photos_that_disagree_are_both_named():
    assert [index for index, _ in outliers(torch.eye(2))] == [0, 1]
    assert outliers(torch.eye(2)[:1]) == []
    assert outliers(torch.tensor([[1.0, 0], [-1, 0], [0, 1]]))  # the others cancel each other out


def test_readings_are_pooled_to_their_mean_with_numbers():
    one = Reading(embedding=torch.tensor([1.0, 0]), quality=0.5, notes=("cropped",), warnings=("blurred",))
    other = Reading(embedding=torch.tensor([0.8, 0.6]), quality=None)
    alone = pool_readings([one])
    assert (alone.quality, alone.notes, alone.warnings) == (0.5, ("cropped",), ("blurred",))
    both = pool_readings([other, one])
    torch.testing.assert_close(both.embedding, pool(torch.stack([one.embedding, other.embedding])))
    assert (both.quality, both.notes, both.warnings) == (0.5, ("photo 2 of 2: cropped",), ("photo 2 of 2: blurred",))


def test_photos_are_called_by_their_names_where_they_have_some():
    readings = [Reading(embedding=row, quality=None, warnings=("blurred",)) for row in torch.eye(2)]
    said = pool_readings(readings, ["a.png", "b.png"]).warnings
    assert said[:2] == ("a.png: blurred", "b.png: blurred")
    assert said[2].startswith("a.png: may show somebody else: cosine 0.00")
    assert pool_readings(readings[:1], ["a.png"]).warnings == ("a.png: blurred",)


def test_no_reading_is_an_error():
    with pytest.raises(PhotoError, match="at least one photo to pool, got none"):
        pool_readings([])


class OfPictures:
    """An encoder of somebody else's, which takes opened pictures only."""

    dim, image_size, record = 2, 8, {}

    def read(self, photos):
        for photo in photos:
            if photo.getpixel((0, 0)) == (255, 255, 255):
                raise NoFaceError("photo: expected a face, got white; give another")
        return [Reading(embedding=torch.tensor([1.0, 0.0]), quality=None, notes=("theirs",)) for _ in photos]

    def embed(self, photos):
        return torch.stack([reading.embedding for reading in self.read(photos)])


def test_foreign_encoders_are_given_opened_photos(tmp_path):
    Image.new("CMYK", (60, 60), (9, 9, 9, 9)).save(tmp_path / "inks.jpg")
    Image.new("RGB", (60, 60), "white").save(tmp_path / "white.png")
    (reading,) = read_all(OfPictures(), [tmp_path / "inks.jpg"])
    assert [getattr(note, "code", note) for note in reading.notes] == ["colour-profile", "theirs"]
    with pytest.raises(NoFaceError, match=r"white\.png: expected a face, got white"):
        read_all(OfPictures(), [tmp_path / "inks.jpg", tmp_path / "white.png"])


def test_one_bad_photo_does_not_end_the_reading_of_others(tmp_path):
    Image.new("RGB", (60, 60), "white").save(tmp_path / "white.png")
    good = Image.new("RGB", (60, 60), "red")
    first, second, third, fourth = read_each(
        OfPictures(), [tmp_path / "none.png", good, tmp_path / "white.png", b"text"]
    )
    assert (first.code, third.code, fourth.code) == ("photo", "no-face", "photo")
    assert second.embedding.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["world", "face"])
def test_one_opened_photo_is_in_memory_at_a_time(kind, recogniser, tmp_path, monkeypatch):
    alive, most = set(), []

    def read(photo, name=None):
        opened_photo = read_photo(photo, name)
        number = len(most)
        alive.add(number)
        weakref.finalize(opened_photo.image, alive.discard, number)
        most.append(len(alive))
        return opened_photo

    monkeypatch.setattr(protocol, "read_photo", read)
    Image.effect_noise((200, 200), 50).convert("RGB").save(tmp_path / "photo.png")
    encoder = open_encoder("portraits") if kind == "world" else ArcFaceEncoder(recogniser())
    options = {"allow_outside": True} if kind == "world" else {}
    assert len(encoder.read([tmp_path / "photo.png"] * 70, **options)) == 70
    assert len(most) == 70
    assert max(most) <= 2  # the one that is read, and the one before it
