"""Subjects of a folder serve training and scores as those of a drawn world do, and each photo serves one purpose."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lorasynth.drawn.export import export_people
from lorasynth.errors import UsageError
from lorasynth.gallery import Role, Split, Use
from lorasynth.gallery.splits import in_order
from lorasynth.refining import RefineConfig, train_critic
from lorasynth.refining.critic import mirrored_alike
from lorasynth.subjects import SECOND, SIMILARITY, Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.photos import PhotoSubjects
from lorasynth.subjects.recogniser import PictureRecogniser
from lorasynth.subjects.source import PhotoSource
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.worlds.world import get_domain, get_world

pytestmark = pytest.mark.slow

PEOPLE, PHOTOS = 16, 9


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "people"
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder, size=64, report=lambda _: None)
    return PhotoSource(data=str(folder), base="portraits", encoder="portraits", second_encoder="portraits")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def subjects(source, prepared):
    return source.open(prepared)


def test_both_kinds_answer_the_same_questions(subjects):
    assert isinstance(subjects, Subjects)
    assert isinstance(DrawnSubjects(get_world("portraits")), Subjects)


def test_content_tells_other_photos_of_the_same_names_apart(subjects):
    """What is fine-tuned on a folder's photos is kept by it: `lorasynth evaluate --cache`."""
    other_folder = PhotoSubjects(
        subjects.base, subjects.prepared, subjects.encoders[SIMILARITY], data={**subjects.data, "hash": "another"}
    )
    larger = PhotoSubjects(
        replace(subjects.base, picture_size=32), subjects.prepared, subjects.encoders[SIMILARITY], data=subjects.data
    )
    assert other_folder.name == larger.name == subjects.name
    assert len({subjects.content, other_folder.content, larger.content}) == 3
    assert DrawnSubjects(get_world("portraits")).content == "portraits"


def test_roles_take_subjects_of_their_splits(subjects):
    of_split = {split: set(subjects.everybody(split)) for split in Split}
    assert sum(map(len, of_split.values())) == PEOPLE
    assert set(subjects.everybody(Role.ZOO)) == of_split[Split.TRAIN] == set(subjects.teachers(3_000, 10**6))
    assert (
        set(subjects.everybody(Role.STOPPING)) == set(subjects.everybody(Role.CHOOSING)) == of_split[Split.VALIDATION]
    )
    assert set(subjects.everybody(Role.EVALUATED)) == of_split[Split.HELD_OUT]
    assert not of_split[Split.HELD_OUT] & set(subjects.everybody(Role.THRESHOLD))
    assert subjects.people(Split.TRAIN, 2) == subjects.everybody(Split.TRAIN)[:2]


def test_no_photo_that_is_shown_is_given_or_scored(subjects):
    for name in subjects.gallery.by_subject:
        uses = [{photo.name for photo in subjects.gallery.photos(name, use, 99)} for use in Use]
        assert sum(map(len, uses)) == len(set.union(*uses)) == PHOTOS


def test_embeddings_and_photos_are_those_of_the_files(subjects):
    (person,) = subjects.people(Role.EVALUATED, 1)
    given = subjects.gallery.photos(str(person), Use.GIVEN, 99)
    own = subjects.encoders[SIMILARITY].embed(subjects.gallery.images(given))
    assert torch.allclose(subjects.given([person], len(given))[0], own, atol=1e-5)
    assert torch.allclose(subjects.given([person], len(given), by=SECOND)[0], own, atol=1e-5)
    again = subjects.given([person], 1, first=len(given))  # they come again
    assert torch.equal(again[0, 0], subjects.given([person])[0, 0])
    scored = subjects.encoders[SIMILARITY].embed(
        subjects.gallery.images(subjects.gallery.photos(str(person), Use.SCORE, 99))
    )
    centroid = torch.nn.functional.normalize(scored.mean(0), dim=0)
    assert torch.allclose(subjects.centroids([person])[0], centroid, atol=1e-5)
    shown = subjects.shown([person], 2, first=1)
    photos = subjects.gallery.photos(str(person), Use.FIT, 99)
    pictures = subjects.gallery.pictures([photos[1], photos[2 % len(photos)]], 64)
    assert torch.allclose(shown.latents[0], subjects.base.encode(pictures), atol=2e-3)  # kept in float16
    assert subjects.fitted([person], 99).count == len(photos)
    assert subjects.real([person], 3).shape == (1, 3, 3, 64, 64)


@pytest.mark.parametrize(("photo", "alike"), [((0.4, 0.6), True), ((0.9, 0.1), False)])
def test_critic_sees_mirrored_photos_where_they_are_the_subjects(photo, alike, subjects, monkeypatch):
    """Two photos of each subject; the encoder sees the brightness of the left half and of the right."""

    def halves(pictures):
        return torch.nn.functional.normalize(pictures.mean((1, 2)).unflatten(1, (2, -1)).mean(2), dim=1)

    real, given = torch.tensor([photo, (0.7, 0.3)]).repeat_interleave(4, 1)[:, None, None].expand(2, 3, 8, 8)
    monkeypatch.setattr(subjects, "recogniser", lambda _: halves)
    monkeypatch.setattr(subjects, "real", lambda people, count: real.expand(len(people), count, 3, 8, 8))
    monkeypatch.setattr(subjects, "given", lambda people, by: halves(given[None]).expand(len(people), 1, -1))
    assert mirrored_alike(subjects, [0, 1, 2]) is alike


def test_picture_in_which_nothing_is_found_is_zero(subjects):
    recognise = PictureRecogniser(subjects.encoders[SIMILARITY])
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (person,) = subjects.people(Role.EVALUATED, 1)
    found = recognise(torch.cat([noise, subjects.real([person], 1)[0]]))
    assert found[0].norm() == 0
    assert found[1].norm() == pytest.approx(1, abs=1e-5)


def test_all_of_a_new_folder_are_scored_when_asked_for(source, prepared, subjects):
    subjects = replace(source, everybody=True).open(prepared)
    names = subjects.gallery.by_subject
    assert (
        subjects.people(Split.HELD_OUT, 3) == [int(name) for name in in_order(names)][:3] != sorted(map(int, names))[:3]
    )
    assert len(subjects.people(Split.HELD_OUT, 99)) == len(subjects.everybody(Split.VALIDATION)) == PEOPLE


def test_student_critic_says_what_the_encoder_says(subjects):
    """Of photos that it has not seen, of people that it has seen: nearer to their own embedding than to others'."""
    config = RefineConfig(critic=RecogniserConfig(loss="arcface", steps=60, batch_size=16), critic_noise=0.1)
    critic = train_critic(subjects, config)
    people = subjects.people(Role.ZOO, 99)
    seen = critic(subjects.given_photos(people).latents[:, 0])
    cosine = seen @ subjects.given(people)[:, 0].T
    assert seen.norm(dim=1).allclose(torch.ones(len(people)), atol=1e-5)
    assert cosine.diagonal().mean() > cosine.mean() + 0.2
    assert not any(p.requires_grad for p in critic.parameters())


def test_nobody_to_teach_is_said(source, tmp_path):
    image = Image.new("RGB", (64, 64))
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        image.save(tmp_path / "few" / name / "1.png")
    with pytest.raises(UsageError, match="expected at least 10 subjects"):
        replace(source, data=str(tmp_path / "few")).open(tmp_path / "prepared")
