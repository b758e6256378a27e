"""Every score is at its best for real photos of the people themselves, and tells them from other people's."""

import json
import math

import pytest

from lorasynth.evaluate.scoring import Scorer
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.reader import Reader, ReaderNet
from lorasynth.worlds.subjects import GIVEN_PHOTO, Role, persons_of
from lorasynth.worlds.world import World, get_world

pytestmark = pytest.mark.slow

BY_EACH = ("similarity", "similarity2")


@pytest.fixture(scope="module")
def scored():
    """The record of real photos; of the same photos in the wrong order; of one photo for everybody."""
    world = get_world("portraits")
    scorer = Scorer.fit(DrawnSubjects(world), persons_of(Role.EVALUATED, 12), 2)
    real = scorer.real_photos()
    assert real.shape == (12, 2, 3, 64, 64)
    prompts = ["smiling, on a blue background", "frowning"]
    return {
        "real": scorer.score(real, []),
        "strangers": scorer.score(real.roll(1, 0), prompts),
        "given": scorer.score(world.draw(scorer.people, [GIVEN_PHOTO] * 12, 64)[:, None], []),
        "one": scorer.score(real[:1, :1].expand(12, 2, -1, -1, -1), prompts),
    }


def test_real_photos_are_the_people_and_strangers_are_not(scored):
    real, strangers = scored["real"], scored["strangers"]
    for name in BY_EACH:
        assert real[name]["mean"] > 0.8 > 0.3 > strangers[name]["mean"]
        assert real[f"verified_{name}"] > 0.9 > 0.1 > strangers[f"verified_{name}"]
    assert real["factor_reader"] == "linear"
    assert real["factors"]["mean"] > 0.3 > 0 > strangers["factors"]["mean"]


def test_photos_find_their_person_and_copy_no_given_one(scored):
    for name in BY_EACH:
        assert scored["real"][f"retrieval_{name}"]["mean"] > 0.95
        assert scored["strangers"][f"retrieval_{name}"]["mean"] < 0.3
        assert abs(scored["real"][f"copy_paste_{name}"]["mean"]) < 0.1
        assert scored["given"][f"copy_paste_{name}"]["mean"] > 0.9


def test_as_a_set_the_same_photos_are_the_same_whoever_is_who(scored):
    for name in BY_EACH:
        assert scored["real"][f"frechet_{name}"] == pytest.approx(scored["strangers"][f"frechet_{name}"], rel=1e-4)
        assert scored["one"][f"frechet_{name}"] > scored["real"][f"frechet_{name}"]


def test_one_picture_for_everybody_has_no_spread(scored):
    for name in BY_EACH:
        assert scored["one"][f"people_spread_{name}"] == pytest.approx(0, abs=1e-4)
        assert scored["real"][f"people_spread_{name}"] > 0.8
    assert scored["one"]["picture_spread"]["mean"] == 0.0
    assert scored["real"]["picture_spread"]["mean"] > 0.05


def test_worlds_with_a_trained_reader_are_read_by_it(tmp_path):
    world = get_world("portraits")
    for path in world.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    features = world.domain.features
    net = ReaderNet(len(features.names), len(features.details), 8)
    Reader(domain=world.domain, net=net).save(tmp_path / "reader.safetensors")
    world = World(domain=world.domain, folder=tmp_path)
    scorer = Scorer.fit(DrawnSubjects(world), persons_of(Role.EVALUATED, 8), 2)
    record = scorer.score(scorer.real_photos(), [])
    assert record["factor_reader"] == "convolutional"
    assert set(record["factors_by_name"]) <= set(features.names)
    assert math.isfinite(record["factors"]["mean"])
    assert record["details"]["glasses"]["present"]["people"] + record["details"]["glasses"]["absent"]["people"] == 8
    json.dumps(record, allow_nan=False)


def test_prompts_are_asked_of_what_had_some(scored):
    assert "obeyed" not in scored["real"]
    assert scored["one"]["obeyed"].keys() == {"background", "expression"}
