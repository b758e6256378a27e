"""What is said of a model that learned nothing, and that nothing is said of one that did."""

import pytest

from lorasynth.teaching import shortcoming_of_model, shortcoming_of_pictures

NOTHING = {"adalora": {"explained": 0.01, "size": 0.9}}


@pytest.mark.parametrize(("best", "said"), [(0.5, False), (0.111, False), (0.109, True), (-0.3, True)])
def test_pictures_must_be_more_like_people_than_the_bases_own(best, said):
    words = shortcoming_of_pictures({"base": 0.1, "best": best})
    assert bool(words) is said
    if said:
        assert f"similarity {best:.3f} and 0.100" in words


def test_pictures_tell_where_some_were_drawn():
    """What is trained through the base need not be near the zoo's LoRAs."""
    assert "taught nothing" in shortcoming_of_model({"validation": NOTHING})
    assert shortcoming_of_model({"validation": NOTHING, "similarity": {"base": 0.0, "best": 0.6}}) == ""
    assert "zoo pilot" in shortcoming_of_model({"validation": NOTHING, "similarity": {"base": 0.1, "best": 0.1}})


@pytest.mark.parametrize("made_from", [None, "x", {}, {"similarity": 1}, {"similarity": {"base": "x", "best": 0.1}}])
def test_record_that_says_nothing_is_no_shortcoming(made_from):
    assert shortcoming_of_model(made_from) == ""
