"""The picture VAE whose encoder is a patch PCA written into AutoencoderKL's weights."""

import pytest
import torch
import torch.nn.functional as F

from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.vae import LATENT_CHANNELS, affine_encoder, build_vae, encode, encode_affine


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build_vae(DOMAIN.photos(list(range(200)), [0] * 200, 64))


def test_network_computes_the_affine_map_that_is_read_off_it(vae):
    pictures = DOMAIN.photos(list(range(20)), [1] * 20, 64)
    through_network, by_map = encode(vae, pictures), encode_affine(*affine_encoder(vae), pictures)
    assert (through_network - by_map).abs().max() < 0.02
    assert through_network.std() == pytest.approx(1, abs=0.15)


def test_encoder_spans_the_principal_components_of_patches(vae):
    """The best linear reconstruction from the latents is as good as PCA with as many components."""
    patches = F.pixel_unshuffle(DOMAIN.photos(list(range(200)), [0] * 200, 64), 8).permute(0, 2, 3, 1).reshape(-1, 192)
    centred = patches - patches.mean(0)
    singular = torch.linalg.svdvals(centred)
    pca_error = singular[LATENT_CHANNELS:].square().sum() / len(patches)
    weight, _ = affine_encoder(vae)
    latents = centred @ weight.T
    solution = torch.linalg.lstsq(latents.double(), centred.double()).solution
    error = (latents.double() @ solution - centred).square().sum(1).mean()
    assert error < 1.05 * pca_error
