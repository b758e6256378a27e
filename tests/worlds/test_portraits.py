"""The drawn world: deterministic, disjoint in its people, and saying what it shows."""

import pytest
import torch

from lorasynth.worlds.colours import COLOUR_NAMES
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.portraits.draw import draw
from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.subjects import SESSION


def test_world_has_the_factors_that_are_promised():
    assert len(IDENTITY) >= 20
    assert len(set(IDENTITY) | set(NUISANCE)) == len(IDENTITY) + len(NUISANCE)


def test_picture_depends_on_its_two_numbers_alone():
    alone = DOMAIN.photos([12], [3], 48)
    in_company = DOMAIN.photos([5, 12, 7], [0, 3, 9], 48)[1:2]
    assert torch.equal(alone, in_company)


@pytest.mark.slow
def test_every_identity_factor_changes_the_picture():
    # Things that a person may lack (a beard, a mole) are there in the upper part of their factor's range; ears show beside
    # short flat hair only.
    nuisance = torch.full((1, len(NUISANCE)), 0.5)
    long_haired = torch.full((1, len(IDENTITY)), 0.9)
    short_haired = long_haired.clone()
    short_haired[0, [IDENTITY.index("hair_length"), IDENTITY.index("hair_volume")]] = 0.1
    for i, name in enumerate(IDENTITY):
        differences = []
        for person in (long_haired, short_haired):
            changed = person.clone()
            changed[0, i] = 0.2
            differences.append((draw(changed, nuisance, 64) - draw(person, nuisance, 64)).abs().max().item())
        assert max(differences) > 0.02, name


def test_people_of_a_session_have_the_same_settings():
    session = DOMAIN.nuisance_factors([3, 4, 3], [SESSION, SESSION, SESSION + 1])
    assert torch.equal(session[0], session[1])
    assert not torch.equal(session[0], session[2])
    own = DOMAIN.nuisance_factors([3, 4], [SESSION - 1, SESSION - 1])
    assert not torch.equal(own[0], own[1])


def test_identity_factors_are_uniform_and_independent():
    x = DOMAIN.identity_factors(list(range(4000)))
    assert x.min() >= 0
    assert x.max() < 1
    assert (x.mean(0) - 0.5).abs().max() < 0.03
    correlation = torch.corrcoef(x.T) - torch.eye(len(IDENTITY))
    assert correlation.abs().max() < 0.08


def test_resolution_does_not_change_the_portrait():
    small, large = DOMAIN.photos([3], [0], 48), DOMAIN.photos([3], [0], 96)
    shrunk = torch.nn.functional.interpolate(large, 48, mode="area")
    assert (small - shrunk).abs().mean() < 0.03


def test_captions_say_the_background_that_is_drawn():
    nuisance = DOMAIN.nuisance_factors([1] * 16, list(range(16)))
    for row, caption in zip(nuisance, DOMAIN.captions([1] * 16, list(range(16))), strict=True):
        name = COLOUR_NAMES[int(row[NUISANCE.index("background")] * len(COLOUR_NAMES))]
        assert f"on a {name} background" in caption


def test_every_caption_uses_known_words_only():
    generator = torch.Generator().manual_seed(0)
    known = set(DOMAIN.vocabulary)
    people = list(range(200))
    for i, n in zip(DOMAIN.identity_factors(people), DOMAIN.nuisance_factors(people, people), strict=True):
        text = DOMAIN.base_caption(i, n, generator).replace(",", " , ")
        assert set(text.split()) <= known, text
    assert set(DOMAIN.subject.split()) <= known
