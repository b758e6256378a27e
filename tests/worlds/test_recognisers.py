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
from lorasynth.worlds.world import get_world


@pytest.mark.integration
@pytest.mark.parametrize("which", ["encoder", "second_recogniser"])
def test_verification_on_unseen_people(which):
    figures = verification(
        getattr(get_world("portraits"), which), DOMAIN.photos, persons_of(Role.EVALUATED, 60, offset=3000)
    )
    assert figures["tar_at_far_1e-3"] >= 0.97
    assert figures["cosine_same"] > 0.6 > 0.2 > figures["cosine_different"]


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
