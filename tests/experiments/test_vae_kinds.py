"""The other weight VAEs, and the metric of ΔW."""

from dataclasses import replace

import pytest
import torch

from lorasynth.errors import ZooError
from lorasynth.experiments.gauge import scrambled
from lorasynth.experiments.metric import UpdateMetric
from lorasynth.experiments.vae_kinds import Tokens, plain_vae
from lorasynth.lora.factors import delta_W_pairs


def test_distances_in_the_metric_are_those_of_updates(lab):
    metric, layout = UpdateMetric.of(lab), lab.zoo.layout
    y, vectors = metric.apply(lab.x), lab.vectors.double()

    def squared(one, other):
        pairs = ((one, one), (one, other), (other, other))
        own, cross, others = (delta_W_pairs(layout, vectors[a], vectors[b]) for a, b in pairs)
        return own - 2 * cross + others

    one, other = torch.arange(0, 16), torch.arange(16, 32)
    ratio = squared(one, other) / (y[one] - y[other]).square().sum(1).double()
    torch.testing.assert_close(ratio, ratio.mean().expand(16), rtol=1e-4, atol=0)
    assert y[lab.train].square().mean().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(metric.invert(y), lab.x, rtol=1e-4, atol=1e-4)
    # It is another metric than that of canonical vectors.
    plain = squared(one, other) / (lab.x[one] - lab.x[other]).square().sum(1).double()
    assert plain.std() > 10 * ratio.std() * (plain.mean() / ratio.mean())


def test_the_metric_wants_one_lora_A(lab):
    loose = replace(
        lab, vectors=scrambled(lab.zoo.layout, lab.vectors, 0), recipe=replace(lab.recipe, gauge="procrustes")
    )
    with pytest.raises(ZooError, match=r"expected LoRAs that differ in lora_B alone; use a zoo of one frozen lora_A"):
        UpdateMetric.of(loose)


def test_a_token_is_of_its_module_alone():
    torch.manual_seed(0)
    blocks, x = [5, 3, 4], torch.randn(2, 12)
    inwards, outwards = Tokens(blocks, 2), Tokens(blocks, 2, outwards=True)
    changed = x.clone()
    changed[:, 5:8] += 1
    assert ((inwards(x) != inwards(changed)).all(0)).tolist() == [False, False, True, True, False, False]
    assert outwards(inwards(x)).shape == x.shape


@pytest.mark.parametrize("kind", ["whole", "tokens"])
def test_plain_vaes_go_there_and_back(kind):
    config = {"latent_dim": 3, "hidden_dim": 8, "token_width": 2}
    vae = plain_vae(kind, [5, 3, 4], config, dropout=0.0)
    mean, logvar = vae.encode(torch.randn(6, 12))
    assert mean.shape == logvar.shape == (6, 3)
    assert vae.decode(mean).shape == (6, 12)
    assert (mean.std(0) > 0).all()
