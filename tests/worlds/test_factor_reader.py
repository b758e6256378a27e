"""A person's features are read off real photos, missed where there are none, and punished where they are another's."""

import pytest

from lorasynth.worlds.factor_reader import FactorReader
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.subjects import Role, persons_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reader():
    return FactorReader.fit("portraits")


@pytest.fixture(scope="module")
def portraits():
    persons = persons_of(Role.EVALUATED, 150)
    return persons, DOMAIN.photos([p for p in persons for _ in range(2)], [600, 601] * 150, 64).unflatten(0, (150, 2))


def test_what_real_photos_show_of_held_out_people_is_read(reader, portraits):
    persons, pictures = portraits
    explained = reader.explained(pictures, persons)
    assert explained.shape == (150, len(DOMAIN.identity))
    named = reader.by_name(explained)
    assert all(named[what] > 0.5 for what in ("skin_tone", "hair_lightness", "face_height", "hair_hue"))
    assert 0.35 < explained.mean() < 0.9


def test_one_mean_face_for_everybody_explains_nothing(reader, portraits):
    persons, pictures = portraits
    mean = pictures.mean((0, 1), keepdim=True).expand(150, 1, -1, -1, -1)
    assert reader.explained(mean, persons).mean() == pytest.approx(0, abs=0.05)


def test_strangers_face_is_worse_than_the_mean_face(reader, portraits):
    persons, pictures = portraits
    assert reader.explained(pictures.roll(1, 0), persons).mean() < -0.2


def test_larger_pictures_are_read_alike(reader, portraits):
    persons, _ = portraits
    large = reader.read(DOMAIN.photos(persons[:20], [600] * 20, 128))
    small = reader.read(DOMAIN.photos(persons[:20], [600] * 20, 64))
    assert (large - small).square().mean() < 0.01
