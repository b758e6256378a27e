"""The picture VAE whose encoder is a patch PCA written into AutoencoderKL's weights."""

import pytest
import torch
import torch.nn.functional as F

from lorasynth.errors import UsageError
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.vae import affine_encoder, build_vae, encode, encode_affine, patch_of


@pytest.fixture(scope="module", params=[8, 16], ids="patch {}".format)
def vae(request):
    """Of patches of 8 pixels with 16 channels, or of 16 pixels with 64."""
    torch.manual_seed(0)
    larger = {"widths": (16, 32, 64, 96, 96), "latent_channels": 64} if request.param == 16 else {}
    vae = build_vae(DOMAIN.photos(list(range(200)), [0] * 200, 64), **larger)
    assert patch_of(vae) == request.param
    return vae


def test_network_computes_the_affine_map_that_is_read_off_it(vae):
    pictures = DOMAIN.photos(list(range(20)), [1] * 20, 64)
    through_network, by_map = encode(vae, pictures), encode_affine(*affine_encoder(vae), pictures)
    assert (through_network - by_map).abs().max() < 0.02
    assert through_network.std() == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_encoder_spans_the_principal_components_of_patches(vae):
    """The best linear reconstruction from the latents is as good as PCA with as many components."""
    weight, _ = affine_encoder(vae)
    channels, numbers = weight.shape
    cut = F.pixel_unshuffle(DOMAIN.photos(list(range(200)), [0] * 200, 64), patch_of(vae))
    patches = cut.permute(0, 2, 3, 1).reshape(-1, numbers)
    centred = patches - patches.mean(0)
    singular = torch.linalg.svdvals(centred)
    pca_error = singular[channels:].square().sum() / len(patches)
    latents = centred @ weight.T
    solution = torch.linalg.lstsq(latents.double(), centred.double()).solution
    error = (latents.double() @ solution - centred).square().sum(1).mean()
    assert error < 1.05 * pca_error


@pytest.mark.slow
def test_later_components_are_as_loud_as_the_last_of_the_loud():
    pictures = DOMAIN.photos(list(range(200)), [0] * 200, 64)
    usual, loud = (encode(build_vae(pictures, loud=n), pictures).std((0, 2, 3)) for n in (None, 6))
    torch.testing.assert_close(loud[:6] / loud[0], usual[:6] / usual[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(loud[6:], loud[5].expand(10), rtol=0.05, atol=0)
    assert usual[15] < 0.8 * usual[5]


def test_latents_that_the_code_has_no_place_for_are_refused():
    pictures = DOMAIN.photos([0], [0], 64)
    with pytest.raises(UsageError, match="a last level of 92 channels for 64 latents, got 64"):
        build_vae(pictures, latent_channels=64)
    for wrong in ({"latent_channels": 18}, {"loud": 0}, {"loud": 17}):
        with pytest.raises(UsageError, match=r"expected latents in multiples of 4, and 1 to as many loud ones, got"):
            build_vae(pictures, **wrong)
    with pytest.raises(UsageError, match=r"the last two levels .* to be equally wide"):
        build_vae(pictures, widths=(16, 32, 64))
