"""The picture VAE of a world: a KL autoencoder whose encoder is a patch PCA written into its weights.

Training a KL autoencoder from nothing takes hours on two cores. The best *linear* code of 8x8 patches is known in closed form,
and diffusers' `AutoencoderKL` encoder can compute it exactly enough: identity convolutions, strided convolutions that gather
2x2 neighbours, and a last group norm + SiLU driven in their linear range. Only the decoder is then trained.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

PATCH = 8
LATENT_CHANNELS = 16
_FINE = 32  # principal components kept of a 4x4 patch, on the way
_WIDTHS = (16, 32, 64, 64)
_GROUPS = 4
_ANCHOR, _ANCHOR_PAIRS = (
    400.0,
    3,
)  # magnitude and number of the +- constant channels that fix the last group norm's scale
_OFFSET, _GAIN = (
    14.0,
    0.5,
)  # where the last SiLU works: silu(z) = z - z·sigmoid(-z), with z = 14 + x / 2, is z to 1e-4 or so


def build_vae(
    pictures: Float[Tensor, "B 3 H W"],
    *,
    weights: Float[Tensor, "B 1 H W"] | None = None,
    chroma: float = 1.0,
    widths: tuple[int, int, int, int] = _WIDTHS,
) -> "AutoencoderKL":
    """An `AutoencoderKL` with a patch-PCA encoder fitted to ``pictures`` (in [0, 1]) and an untrained decoder.

    The latent of a patch is its principal coefficients, each divided by the square root of its standard deviation: half-way
    between a whitened code (noise as loud as structure) and a plain one (detail drowned). ``scaling_factor`` makes the mean
    variance 1.

    Args:
        pictures: to fit to.
        weights: how much each pixel counts; a patch counts as its mean. None: all alike.
        chroma: how much a difference of colour counts beside one of brightness. At 1 the principal directions are those of
            RGB; more than 1 keeps the colours of small things.
        widths: channels of each level, the last two equal.

    Raises:
        UsageError: the last two widths differ.
    """
    from diffusers import AutoencoderKL

    if widths[2] != widths[3]:
        raise UsageError(f"expected the last two levels of a patch-PCA VAE to be equally wide, got {widths}")
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=LATENT_CHANNELS, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=_GROUPS, mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False,
        sample_size=pictures.shape[-1], scaling_factor=1.0,
    )  # fmt: skip
    with torch.no_grad():
        weights = torch.ones_like(pictures[:, :1]) if weights is None else weights
        _write_patch_pca(vae, pictures * 2 - 1, weights, _colours(chroma))
        sample = vae.encode(pictures[:256] * 2 - 1).latent_dist.mode()
    vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 4))
    return vae


def _colours(chroma: float) -> Float[Tensor, "3 3"]:
    """RGB -> brightness and two differences of colour (ITU-R BT.601), these times ``chroma``. At 1 RGB as it is."""
    if chroma == 1:
        return torch.eye(3)
    return torch.tensor([[0.299, 0.587, 0.114], [0.5, -0.419, -0.081], [-0.169, -0.331, 0.5]]) * torch.tensor(
        [[1.0], [chroma], [chroma]]
    )


def _principal(
    rows: Float[Tensor, "n d"], keep: int, weights: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "keep d"], Float[Tensor, " keep"]]:
    """Principal directions (rows) and their standard deviations, largest first. Signs by the mean entry."""
    centred = rows - weights @ rows / weights.sum()
    covariance = centred.T @ (centred * weights[:, None]) / weights.sum()
    variance, vectors = torch.linalg.eigh(covariance.double())
    directions = vectors.flip(1)[:, :keep].T.float()
    directions = directions * torch.where(directions.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return directions, variance.flip(0)[:keep].clamp(min=1e-12).sqrt().float()


def _pixels_of(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "n C"]:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _gather(directions: Float[Tensor, "keep d"]) -> Float[Tensor, "keep C 3 3"]:
    """A stride-2 convolution kernel that applies ``directions`` to each 2x2 neighbourhood (order of `pixel_unshuffle`)."""
    keep, d = directions.shape
    return F.pad(directions.reshape(keep, d // 4, 2, 2), (0, 1, 0, 1))


def _write_patch_pca(
    vae: "AutoencoderKL",
    pictures: Float[Tensor, "B 3 H W"],
    weights: Float[Tensor, "B 1 H W"],
    colours: Float[Tensor, "3 3"],
) -> None:
    encoder, widths = vae.encoder, vae.config.block_out_channels
    x = torch.einsum("cd,bdhw->bchw", colours, pictures)

    def patch_weights(patch: int) -> Float[Tensor, " n"]:
        return F.avg_pool2d(weights, patch).flatten()

    for parameter in encoder.parameters():
        parameter.zero_()
    encoder.conv_in.weight[:3, :, 1, 1] = colours
    for i in (1, 2):
        _identity(encoder.down_blocks[i].resnets[0].conv_shortcut.weight, (12, _FINE)[i - 1])

    # 1x1 -> 2x2 -> 4x4 -> 8x8 patches, the principal directions of each fitted to what the step before passes on.
    two = F.pixel_unshuffle(x, 2)
    encoder.down_blocks[0].downsamplers[0].conv.weight[:12, :3] = _gather(torch.eye(12))
    four = F.pixel_unshuffle(two, 2)
    fine, _ = _principal(_pixels_of(four), _FINE, patch_weights(4))
    encoder.down_blocks[1].downsamplers[0].conv.weight[:_FINE, :12] = _gather(fine)
    eight = F.pixel_unshuffle(torch.einsum("kd,bdhw->bkhw", fine, four), 2)
    coarse, std = _principal(_pixels_of(eight), LATENT_CHANNELS, patch_weights(8))
    coarse = coarse / std.sqrt()[:, None]

    # A norm group holds latents, minus their sum (so that its mean is always 0) and anchors (so that its deviation is known).
    last = encoder.down_blocks[2].downsamplers[0].conv
    per_group, latents = widths[-1] // _GROUPS, LATENT_CHANNELS // _GROUPS
    kernel, offset = _gather(coarse), -coarse @ _pixels_of(eight).mean(0)
    anchors = _ANCHOR * torch.tensor([1.0, -1.0]).repeat(_ANCHOR_PAIRS)
    place = torch.cat([torch.arange(latents) + g * per_group for g in range(_GROUPS)])
    for g in range(_GROUPS):
        first, own = g * per_group, slice(g * latents, (g + 1) * latents)
        last.weight[first : first + latents, :_FINE] = kernel[own]
        last.bias[first : first + latents] = offset[own]
        last.weight[first + latents, :_FINE] = -kernel[own].sum(0)
        last.bias[first + latents] = -offset[own].sum()
        last.bias[first + per_group - len(anchors) : first + per_group] = anchors

    deviation = _ANCHOR * (len(anchors) / per_group) ** 0.5
    encoder.conv_norm_out.weight.fill_(deviation * _GAIN)
    encoder.conv_norm_out.bias.fill_(_OFFSET)
    rows = torch.arange(LATENT_CHANNELS)
    encoder.conv_out.weight[rows, place, 1, 1] = 1 / _GAIN
    encoder.conv_out.bias[:LATENT_CHANNELS] = -_OFFSET / _GAIN
    encoder.conv_out.bias[LATENT_CHANNELS:] = -9.0  # log-variance of the posterior


def _identity(weight: Tensor, channels: int) -> None:
    for c in range(channels):
        weight[c, c, weight.shape[2] // 2, weight.shape[3] // 2] = 1


@torch.no_grad()
def encode(vae: "AutoencoderKL", pictures: Float[Tensor, "B 3 H W"], batch: int = 64) -> Float[Tensor, "B C h w"]:
    """Pictures in [0, 1] -> scaled latents, as the diffusion model sees them."""
    modes = [vae.encode(chunk * 2 - 1).latent_dist.mode() for chunk in pictures.split(batch)]
    return torch.cat(modes) * vae.config.scaling_factor


@torch.no_grad()
def affine_encoder(vae: "AutoencoderKL") -> tuple[Float[Tensor, "C d"], Float[Tensor, " C"]]:
    """The encoder as one affine map of an 8x8 patch, read off by encoding impulses.

    `build_vae` makes the encoder affine in each patch by construction. Training a base model on pictures drawn as it goes
    is three times faster with the map than through the network.

    Returns:
        weight and bias: scaled latent = weight @ patch + bias, the patch in `pixel_unshuffle` order, pictures in [0, 1].
    """
    patches = torch.cat([torch.zeros(1, 192), torch.eye(192)])
    latents = encode(vae, F.pixel_shuffle(patches[:, :, None, None], PATCH)).flatten(1)
    return (latents[1:] - latents[:1]).T, latents[0]


def encode_affine(
    weight: Float[Tensor, "C d"], bias: Float[Tensor, " C"], pictures: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B C h w"]:
    """Scaled latents by the map of `affine_encoder`."""
    return torch.einsum("cd,bdhw->bchw", weight, F.pixel_unshuffle(pictures, PATCH)) + bias[:, None, None]
