"""The denoiser: diffusers' timestep features, and a row without an embedding."""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from lorasynth.errors import UsageError
from lorasynth.prior import CONDITIONING, Denoiser
from lorasynth.prior.denoiser import timestep_features

every_conditioning = pytest.mark.parametrize("conditioning", CONDITIONING)


def denoiser(conditioning="adalora", **settings):
    """One in evaluation mode whose every part does something, as after training."""
    torch.manual_seed(0)
    made = Denoiser(4, 6, width=16, depth=2, conditioning=conditioning, **settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return made


def batch(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    e = torch.nn.functional.normalize(torch.randn(n, 6, generator=g), dim=1)
    return torch.randn(n, 4, generator=g), torch.randint(1000, (n,), generator=g), e


@pytest.mark.parametrize("dim", [2, 64, 128])
def test_timestep_features_are_diffusers(dim):
    t = torch.tensor([0, 1, 17, 500, 999])
    torch.testing.assert_close(timestep_features(t, dim), get_timestep_embedding(t, dim, downscale_freq_shift=0))


def test_no_two_timesteps_have_the_same_features():
    distance = torch.cdist(*[timestep_features(torch.arange(1000))] * 2) + torch.eye(1000)
    assert distance.min() > 0.1


@every_conditioning
def test_it_begins_by_predicting_nothing(conditioning):
    """Zero is the best v for latents that are standard normal and independent of the embedding."""
    assert (Denoiser(4, 6, width=16, depth=2, conditioning=conditioning)(*batch()) == 0).all()


@every_conditioning
@torch.no_grad()
def test_dropped_rows_do_not_depend_on_embedding_and_others_do(conditioning):
    made, (z_t, t, one), (_, _, two) = denoiser(conditioning), batch(), batch(seed=1)
    dropped = torch.tensor([True, False, True, False, False])
    change = (made(z_t, t, one, dropped) - made(z_t, t, two, dropped)).abs().amax(1)
    assert (change[dropped] == 0).all()
    assert (change[~dropped] > 1e-3).all()


@every_conditioning
@torch.no_grad()
def test_dropped_row_has_the_learned_nobody_for_embedding(conditioning):
    made, (z_t, t, e) = denoiser(conditioning), batch()
    nobody = (made.nobody / 6**0.5).expand(5, -1)
    torch.testing.assert_close(made(z_t, t, e, torch.ones(5, dtype=torch.bool)), made(z_t, t, nobody))
    torch.testing.assert_close(made(z_t, t, e, torch.zeros(5, dtype=torch.bool)), made(z_t, t, e))


@every_conditioning
@torch.no_grad()
def test_it_hears_latent_and_time_and_row_hears_no_other(conditioning):
    made, (z_t, t, e) = denoiser(conditioning), batch()
    v = made(z_t, t, e)
    assert ((made(z_t + 0.1, t, e) - v).abs().amax(1) > 1e-3).all()
    assert ((made(z_t, (t + 300) % 1000, e) - v).abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(v[1:3], made(z_t[1:3], t[1:3], e[1:3]))


@torch.no_grad()
def test_dropout_acts_in_training_only():
    made, inputs = denoiser(dropout=0.5), batch()
    assert torch.equal(made(*inputs), made(*inputs))
    made.train()
    assert not torch.equal(made(*inputs), made(*inputs))


def test_unknown_conditioning_is_refused_by_naming_the_known():
    with pytest.raises(
        UsageError, match=r"expected a conditioning among \['adaln_zero', 'adalora'.*\] or .*, got 'nonsense'"
    ):
        Denoiser(4, 6, conditioning="nonsense")
