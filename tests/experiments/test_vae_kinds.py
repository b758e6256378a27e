"""The other weight VAEs."""

import pytest
import torch

from claims.vae_kinds import Tokens, plain_vae


def test_token_is_of_its_module_alone():
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
