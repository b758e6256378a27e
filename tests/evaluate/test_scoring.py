"""Every score is at its best for real photos of the people themselves, and tells them from other people's."""

import pytest

from lorasynth.evaluate.scoring import Scorer
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_world

BY_EACH = ("similarity", "similarity2")


@pytest.fixture(scope="module")
def scored():
    """The record of real photos; of the same photos in the wrong order; of one photo for everybody."""
    world = get_world("portraits")
    scorer = Scorer.fit(world, persons_of(Role.EVALUATED, 12), 2)
    real = scorer.real_photos(world)
    assert real.shape == (12, 2, 3, 64, 64)
    prompts = ["smiling, on a blue background", "frowning"]
    return {
        "real": scorer.score(real, []),
        "strangers": scorer.score(real.roll(1, 0), prompts),
        "one": scorer.score(real[:1, :1].expand(12, 2, -1, -1, -1), prompts),
    }


def test_real_photos_are_the_people_and_strangers_are_not(scored):
    real, strangers = scored["real"], scored["strangers"]
    for name in BY_EACH:
        assert real[name]["mean"] > 0.8 > 0.3 > strangers[name]["mean"]
        assert real[f"verified_{name}"] > 0.9 > 0.1 > strangers[f"verified_{name}"]
    assert real["factors"]["mean"] > 0.3 > 0 > strangers["factors"]["mean"]


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


def test_prompts_are_asked_of_what_had_some(scored):
    assert "obeyed" not in scored["real"]
    assert scored["one"]["obeyed"].keys() == {"background", "expression"}
