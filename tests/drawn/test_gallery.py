"""A drawn world as a gallery: the people and photos of the table, each photo for one purpose."""

import pytest
import torch

from lorasynth.drawn.gallery import DrawnGallery, photo_numbers
from lorasynth.errors import UsageError
from lorasynth.gallery import Split, Use
from lorasynth.worlds.subjects import SESSION
from lorasynth.worlds.world import get_domain

GALLERY = DrawnGallery(domain=get_domain("portraits"))


@pytest.mark.parametrize("split", Split)
@pytest.mark.parametrize("fit_photos", [4, 16, 400])
def test_no_drawn_photo_has_two_uses(split, fit_photos):
    uses = photo_numbers(split, fit_photos)
    numbers = [number for use in Use for number in uses[use]]
    assert len(numbers) == len(set(numbers))
    assert all(len(uses[use]) >= min(fit_photos, 12) for use in Use)


def test_drawn_photos_are_those_of_today():
    def numbers(subject, use, count):
        return [int(photo.name.partition("/")[2]) for photo in GALLERY.photos(subject, use, count)]

    assert numbers("100000", Use.FIT, 16) == list(range(SESSION, SESSION + 16))
    assert numbers("10000", Use.GIVEN, 12) == list(range(16, 28))
    assert numbers("150000", Use.FIT, 16) == list(range(16))
    assert numbers("0", Use.GIVEN, 1) == [0]
    assert numbers("0", Use.FIT, 10) == list(range(100, 110))
    assert numbers("0", Use.SCORE, 8) == list(range(1_000, 1_008))


def test_drawn_pictures_and_captions_are_the_worlds():
    photos = GALLERY.photos("7", Use.GIVEN, 1) + GALLERY.photos("100003", Use.FIT, 1)
    who, which = [7, 100_003], [0, SESSION]
    assert torch.equal(GALLERY.pictures(photos, 64), GALLERY.domain.photos(who, which, 64))
    assert GALLERY.captions(photos) == GALLERY.domain.captions(who, which)
    assert all("sks person" in caption for caption in GALLERY.captions(photos))
    assert [image.size for image in GALLERY.images(photos)] == [(256, 256)] * 2
    assert GALLERY.masks(photos, 64) is None


@pytest.mark.slow
def test_drawn_subjects_are_lazy_and_in_one_split():
    splits = {split: GALLERY.subjects(split) for split in Split}
    assert {split: len(names) for split, names in splits.items()} == {
        Split.TRAIN: 99_000, Split.VALIDATION: 10_000, Split.HELD_OUT: 10_000, Split.PILOT: 1_000,
    }  # fmt: skip
    assert splits[Split.TRAIN][:2] == ["100000", "100001"]
    assert splits[Split.PILOT][0] == "150000"
    assert len({name for names in splits.values() for name in names}) == 120_000


@pytest.mark.parametrize("subject", ["200000", "alice", "-1", "", "\u00b2"])
def test_person_of_no_split_is_refused(subject):
    with pytest.raises(UsageError, match="expected a person of a split"):
        GALLERY.photos(subject, Use.FIT, 1)


def test_too_many_photos_to_fit_are_refused():
    with pytest.raises(UsageError, match="expected 1 to 400 photos to fine-tune on, got 401"):
        DrawnGallery(domain=GALLERY.domain, fit_photos=401)
