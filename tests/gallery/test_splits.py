"""Who may learn from whom in a folder: one split a subject, one use a photo, the same everywhere."""

import pytest

from lorasynth.errors import UsageError
from lorasynth.gallery import Split, Use
from lorasynth.gallery.splits import split_photos, split_subjects


def names(count):
    return [f"person {i}" for i in range(count)]


@pytest.mark.parametrize("count", [10, 12, 30, 99, 100, 2_000])
def test_every_subject_has_one_split(count):
    splits = split_subjects(names(count))
    assert sorted(s for part in splits.values() for s in part) == sorted(names(count))
    assert len(splits[Split.PILOT]) >= 2
    assert all(splits[split] for split in Split)
    assert len(splits[Split.TRAIN]) >= count // 2


def test_parts_of_many_subjects_are_as_planned():
    splits = split_subjects(names(20_000))
    parts = {split: len(part) / 20_000 for split, part in splits.items()}
    expected = {Split.HELD_OUT: 0.1, Split.VALIDATION: 0.1, Split.PILOT: 0.05, Split.TRAIN: 0.75}
    assert parts == pytest.approx(expected, abs=0.01)


def test_splits_do_not_depend_on_order_or_machine():
    assert split_subjects(names(30)) == split_subjects(names(30)[::-1])
    assert split_subjects(names(12)) == {
        Split.HELD_OUT: ["person 6"],
        Split.VALIDATION: ["person 9", "person 10"],
        Split.PILOT: ["person 3", "person 0"],
        Split.TRAIN: [f"person {i}" for i in (4, 1, 11, 8, 5, 2, 7)],
    }


def test_more_subjects_move_nobody():
    def split_of(count):
        return {s: split for split, part in split_subjects(names(count)).items() for s in part}

    few, many = split_of(200), split_of(1_000)
    assert all(many[s] == split for s, split in few.items())


def test_too_few_subjects_are_refused():
    with pytest.raises(
        UsageError, match=r"expected at least 10 subjects with 3 usable photos each.* got 9; add subjects"
    ):
        split_subjects(names(9))


@pytest.mark.parametrize("count", range(1, 25))
def test_every_photo_has_one_use(count):
    photos = {f"{i}.jpg": f"{i}.jpg" for i in range(count)}
    uses = split_photos("alice", photos)
    assert sorted(name for part in uses.values() for name in part) == sorted(photos)
    assert uses[Use.GIVEN]
    assert bool(uses[Use.FIT]) == (count >= 2)
    assert bool(uses[Use.SCORE]) == (count >= 3)
    assert len(uses[Use.FIT]) >= max(count * 3 // 8, count // 2 - 1)
    assert uses == split_photos("alice", dict(reversed(photos.items())))
