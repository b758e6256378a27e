"""Features that pictures show, and the network that reads them."""

import math
from dataclasses import replace

import pytest
import torch

from lorasynth.errors import ModelError
from lorasynth.recipes.world_models import WorldConfig
from lorasynth.training import LoopConfig
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.reader import Reader, ReaderNet
from lorasynth.worlds.reader_training import ReaderConfig, train_reader
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import WORLDS, get_domain

FEATURES = DOMAIN.features


def drawn(identity):
    number = len(identity)
    return DOMAIN.draw(identity, DOMAIN.nuisance_factors(list(range(number)), [0] * number), 64)


@pytest.fixture(scope="module")
def people():
    """Identity factors of some people, and one picture of each."""
    identity = DOMAIN.identity_factors(list(range(120)))
    return identity, drawn(identity)


def changed_pixels(people, name, value):
    """The largest change of a pixel when a factor is set to a value, for each person."""
    identity, pictures = people
    other = identity.clone()
    other[:, DOMAIN.identity.index(name)] = value
    return (pictures - drawn(other)).abs().amax((1, 2, 3))


@pytest.mark.parametrize("detail", FEATURES.details)
def test_detail_is_zero_where_the_renderer_draws_none(people, detail):
    strength = FEATURES.of(people[0])[0][:, FEATURES.names.index(detail)]
    change = changed_pixels(people, detail, 0.0)
    assert change[strength == 0].max() == 0
    assert change[strength >= FEATURES.clear].median() > 0.05


def test_glasses_size_is_visible_on_those_who_wear_some(people):
    identity, _ = people
    visible = FEATURES.of(identity)[1][:, FEATURES.names.index("glasses_size")]
    change = changed_pixels(people, "glasses_size", 0.5)
    assert 0.2 < visible.float().mean() < 0.5
    assert change[visible].median() > 0.1
    assert change[~visible & (identity[:, DOMAIN.identity.index("glasses")] < 0.65)].max() == 0


def test_mole_place_is_an_angle():
    identity = DOMAIN.identity_factors([0, 0])
    identity[:, DOMAIN.identity.index("mole_place")] = torch.tensor([0.001, 0.999])
    values, _ = FEATURES.of(identity)
    near = values[:, [FEATURES.names.index(name) for name in ("mole_x", "mole_y")]]
    assert (near[0] - near[1]).norm() == pytest.approx(2 * math.sin(2 * math.pi * 0.001), rel=1e-2)


def test_mirrored_features_change_sign_in_a_mirrored_picture():
    """Mirrored factors draw the mirrored picture, but for glints and the pattern of freckles."""
    identity, nuisance = DOMAIN.identity_factors(list(range(40))), DOMAIN.nuisance_factors(list(range(40)), [0] * 40)
    turned, other = identity.clone(), nuisance.clone()
    turned[:, DOMAIN.identity.index("hair_parting")] *= -1
    turned[:, DOMAIN.identity.index("hair_parting")] += 1
    turned[:, DOMAIN.identity.index("mole_place")] = (0.5 - turned[:, DOMAIN.identity.index("mole_place")]) % 1
    for name in ("shift_x", "roll", "yaw", "gaze", "light_side"):
        other[:, DOMAIN.nuisance.index(name)] = 1 - other[:, DOMAIN.nuisance.index(name)]
    mirrored = DOMAIN.draw(identity, nuisance, 64).flip(3)
    assert (DOMAIN.draw(turned, other, 64) - mirrored).abs().mean() < 0.003
    mean, _ = FEATURES.spread(len(DOMAIN.identity))
    signs = torch.tensor([-1.0 if name in FEATURES.mirrored else 1.0 for name in FEATURES.names])
    expected = (FEATURES.of(identity)[0] - mean) * signs + mean
    torch.testing.assert_close(FEATURES.of(turned)[0], expected, atol=0.01, rtol=0)


def test_faint_details_are_neither_present_nor_absent():
    values = torch.zeros(3, len(FEATURES.names))
    values[1, FEATURES.names.index("freckles")] = 0.1
    values[2, FEATURES.names.index("freckles")] = 0.6
    there, sure = FEATURES.presence(values, torch.ones_like(values, dtype=torch.bool))
    column = FEATURES.details.index("freckles")
    assert there[:, column].tolist() == [False, False, True]
    assert sure[:, column].tolist() == [True, False, True]


def test_moustache_within_a_beard_is_not_asked_about():
    values, visible = FEATURES.of(DOMAIN.identity_factors(list(range(300))))
    _, sure = FEATURES.presence(values, visible)
    bearded = values[:, FEATURES.names.index("beard")] > 0
    assert not sure[bearded, FEATURES.details.index("moustache")].any()


@pytest.mark.parametrize("world", WORLDS)
def test_spread_is_that_of_drawn_people(world):
    domain = get_domain(world)
    values, visible = domain.features.of(domain.identity_factors(list(range(20_000))))
    mean, deviation = domain.features.spread(len(domain.identity))
    for i in range(values.shape[1]):
        drawn = values[visible[:, i], i]
        assert mean[i].item() == pytest.approx(drawn.mean().item(), abs=0.05 * drawn.std().item())
        assert deviation[i].item() == pytest.approx(drawn.std().item(), rel=0.03)


class Oracle(ReaderNet):
    """Says what a fixed list of people was drawn from, whatever the pictures show."""

    def __init__(self, persons, photos):
        super().__init__(len(FEATURES.names), len(FEATURES.details), 8)
        values, visible = FEATURES.of(DOMAIN.identity_factors([p for p in persons for _ in range(photos)]))
        mean, deviation = FEATURES.spread(len(DOMAIN.identity))
        self.values = (values - mean) / deviation
        self.logits = FEATURES.presence(values, visible)[0].float() * 20 - 10

        self.read = 0

    def forward(self, pictures):
        rows = torch.arange(self.read, self.read + len(pictures)) % len(self.values)
        self.read += len(pictures)
        return self.values[rows], self.logits[rows]


def test_perfect_reading_explains_all_that_is_visible():
    persons = list(range(30))
    reader = Reader(domain=DOMAIN, net=Oracle(persons, 2))
    explained = reader.explained(torch.zeros(30, 2, 3, 8, 8), persons)
    visible = FEATURES.of(DOMAIN.identity_factors(persons))[1]
    assert torch.equal(explained.isnan(), ~visible)
    torch.testing.assert_close(explained[visible], torch.ones(int(visible.sum())), atol=1e-4, rtol=0)
    right = reader.details_right(torch.zeros(30, 2, 3, 8, 8), persons)
    assert set(right) == set(FEATURES.details)
    assert all((people == 1).all() and len(people) for part in right.values() for people in part.values())


def test_details_of_other_people_are_wrong():
    persons = list(range(200))
    reader = Reader(domain=DOMAIN, net=Oracle(persons[1:] + persons[:1], 1))
    right = reader.details_right(torch.zeros(200, 1, 3, 8, 8), persons)
    for name, kinds in right.items():
        share = len(kinds["present"]) / 200  # of people who have the detail, and so of pictures that show it
        assert abs(kinds["present"].mean() - share) < 0.15, name


@pytest.mark.slow
def test_mean_reading_explains_nothing():
    persons = persons_of(Role.EVALUATED, 2_000)
    reader = Reader(domain=DOMAIN, net=Oracle(persons, 1))
    reader.net.values = torch.zeros_like(reader.net.values)
    explained = torch.cat([reader.explained(torch.zeros(1, 1, 3, 8, 8), [p]) for p in persons])
    assert explained.nanmean(0).abs().max() < 0.12


def test_readers_people_fit_in_their_split_beside_recognisers():
    config = ReaderConfig()
    persons = persons_of(Role.READER, config.people + config.validation_people)
    assert not set(persons) & set(persons_of(Role.RECOGNISER, WorldConfig().recogniser_people))


TINY = ReaderConfig(
    width=8, people=8, validation_people=2, batch_size=4, bf16=False,
    loop=LoopConfig(steps=3, warmup_steps=1, validate_every=2),
)  # fmt: skip


def test_reader_resumes_and_comes_back_from_its_file(tmp_path):
    reader = train_reader(DOMAIN, TINY, run_dir=tmp_path / "run")
    again = train_reader(DOMAIN, TINY, run_dir=tmp_path / "run")
    pictures = DOMAIN.photos([1, 2], [0, 0], 64)
    torch.testing.assert_close(again.read(pictures), reader.read(pictures))
    reader.save(tmp_path / "reader.safetensors")
    loaded = Reader.load(DOMAIN, tmp_path / "reader.safetensors")
    torch.testing.assert_close(loaded.read(pictures), reader.read(pictures), atol=0.02, rtol=0)


def test_reader_of_another_world_is_refused(tmp_path):
    train_reader(DOMAIN, replace(TINY, people=4), run_dir=tmp_path / "run").save(tmp_path / "reader.safetensors")
    with pytest.raises(ModelError, match=r"expected the weights of a reader of 'emblems'"):
        Reader.load(get_domain("emblems"), tmp_path / "reader.safetensors")
