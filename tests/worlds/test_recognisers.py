"""The shipped recognisers tell unseen people apart."""

import pytest
import torch

from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.recogniser_training import (
    RecogniserConfig,
    arcface_logits,
    contrastive_loss,
    train_recogniser,
    verification,
)
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.twins import twin_of, with_twins
from lorasynth.worlds.world import WORLDS, get_domain, get_world


@pytest.mark.integration
@pytest.mark.parametrize(
    ("world", "which"),
    [("portraits", "encoder"), ("portraits", "second_recogniser"), ("portraits128", "second_recogniser")],
)
def test_verification_on_unseen_people(world, which):
    figures = verification(getattr(get_world(world), which), DOMAIN.photos, persons_of(Role.EVALUATED, 60, offset=3000))
    assert figures["tar_at_far_1e-3"] >= 0.97
    assert figures["cosine_same"] > 0.6 > 0.2 > figures["cosine_different"]


@pytest.mark.integration
def test_recogniser_that_learned_from_twins_sees_more_details():
    persons, draw = persons_of(Role.EVALUATED, 60, offset=3000), with_twins(get_domain("portraits128"))
    pictures, twins = (draw(who, [1000] * 60, 128) for who in (persons, [twin_of(p) for p in persons]))
    old, new = (get_world(name).second_recogniser for name in ("portraits", "portraits128"))
    with torch.no_grad():
        old, new = ((net(pictures) * net(twins)).sum(1).mean() for net in (old, new))
    assert new < old - 0.05


def test_arcface_margin_lowers_the_true_logit_only():
    cosine = torch.tensor([[0.5, 0.2], [0.1, 0.6]])
    label = torch.tensor([0, 1])
    logits = arcface_logits(cosine, label, margin=0.3, scale=1.0)
    assert logits[0, 0] == pytest.approx(torch.cos(torch.acos(torch.tensor(0.5)) + 0.3).item(), abs=1e-6)
    assert logits[0, 1] == cosine[0, 1]


def test_contrastive_loss_prefers_partners_close():
    e = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    together, apart = torch.cat([e, e]), torch.cat([e, e.roll(1, 0)])
    assert contrastive_loss(together, 0.1) < contrastive_loss(apart, 0.1)


@pytest.mark.parametrize("loss", ["arcface", "contrastive"])
def test_training_runs_on_drawn_pictures(loss):
    lines = []
    config = RecogniserConfig(loss=loss, steps=2, batch_size=8)
    net = train_recogniser(DOMAIN.photos, persons_of(Role.ENCODER, 16), config, report=lines.append)
    assert lines
    assert net(DOMAIN.photos([0], [0], 96)).norm(dim=1).item() == pytest.approx(1, abs=1e-5)


def test_twins_differ_from_each_other_in_one_detail():
    persons = list(range(60))
    drawn = with_twins(DOMAIN)
    pictures, twins = drawn(persons, [0] * 60, 64), drawn([twin_of(p) for p in persons], [0] * 60, 64)
    assert torch.equal(pictures, DOMAIN.photos(persons, [0] * 60, 64))
    assert [twin_of(twin_of(p)) for p in persons] == persons
    changed = ((pictures - twins).abs().amax(1) > 0.02).float().mean((1, 2))
    assert (changed > 0).float().mean() > 0.85  # hair covers a few
    assert changed.max() < 0.15


@pytest.mark.parametrize("world", [name for name in WORLDS if get_domain(name).details])
def test_details_are_identity_factors_that_draw_nothing_at_zero(world):
    domain = get_domain(world)
    identity, nuisance = domain.identity_factors(list(range(50))), domain.nuisance_factors(list(range(50)), [0] * 50)
    for name in domain.details:
        column = domain.identity.index(name)
        none, little = identity.clone(), identity.clone()
        none[:, column], little[:, column] = 0.0, 0.1
        assert torch.equal(domain.draw(none, nuisance, 48), domain.draw(little, nuisance, 48))


def test_half_of_a_batch_are_twins_once_they_are_due():
    seen = []

    def draw(persons, photos, size):
        seen.append(persons)
        return DOMAIN.photos([max(p, ~p) for p in persons], photos, size)

    config = RecogniserConfig(loss="contrastive", steps=2, batch_size=8, twins_after=0.5)
    train_recogniser(draw, persons_of(Role.RECOGNISER, 16), config, report=lambda _: None)
    assert min(seen[0]) >= 0
    assert seen[1][1::2] == [twin_of(p) for p in seen[1][::2]]
    assert seen[1][:4] == seen[1][4:]  # rows i and i + B/2 show one person, or one twin
    assert len(set(seen[1])) == 4
