"""The picture VAE of a world: a KL autoencoder whose encoder is a patch PCA written into its weights.

Training a KL autoencoder from nothing takes hours on two cores. The best *linear* code of square patches is known in closed form,
and diffusers' `AutoencoderKL` encoder can compute it exactly enough: identity convolutions, strided convolutions that gather
2x2 neighbours, and a last group norm + SiLU driven in their linear range. Only the decoder is then trained.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LATENT_CHANNELS = 16
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
    widths: tuple[int, ...] = _WIDTHS,
    latent_channels: int = LATENT_CHANNELS,
    loud: int | None = None,
) -> "AutoencoderKL":
    """An `AutoencoderKL` with a patch-PCA encoder fitted to ``pictures`` (in [0, 1]) and an untrained decoder.

    A patch has 2^(levels - 1) pixels a side. Its latent is its principal coefficients, each divided by the square root of its
    standard deviation: half-way between a whitened code (noise as loud as structure) and a plain one (detail drowned).
    ``scaling_factor`` makes the mean variance 1.

    Args:
        pictures: to fit to.
        weights: how much each pixel counts; a patch counts as its mean. None: all alike.
        chroma: how much a difference of colour counts beside one of brightness. At 1 the principal directions are those of
            RGB; more than 1 keeps the colours of small things.
        widths: channels of each level, the last two equal. A level passes on as many components of its patches.
        latent_channels: components kept of a patch.
        loud: how many components are spread by that rule. The later ones are as loud as the last of them, so that a narrow UNet
            need not pass on noise that is louder than they are. None: all.

    Raises:
        UsageError: the last two widths differ or have no room for the latents, these are no multiple of 4, or there are fewer
            than ``loud``.
    """
    from diffusers import AutoencoderKL

    if widths[-2] != widths[-1]:
        raise UsageError(f"expected the last two levels of a patch-PCA VAE to be equally wide, got {widths}")
    loud = latent_channels if loud is None else loud
    if latent_channels % _GROUPS or not 1 <= loud <= latent_channels:
        raise UsageError(
            f"expected latents in multiples of {_GROUPS}, and 1 to as many loud ones, got {latent_channels} and {loud}"
        )
    needed = latent_channels + _GROUPS * (1 + 2 * _ANCHOR_PAIRS)
    if widths[-1] < needed:
        raise UsageError(f"expected a last level of {needed} channels for {latent_channels} latents, got {widths[-1]}")
    levels = len(widths)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latent_channels, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=_GROUPS, mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False,
        sample_size=pictures.shape[-1], scaling_factor=1.0,
    )  # fmt: skip
    with torch.no_grad():
        weights = torch.ones_like(pictures[:, :1]) if weights is None else weights
        _write_patch_pca(vae, pictures * 2 - 1, weights, _colours(chroma), loud)
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
    loud: int,
) -> None:
    encoder, config = vae.encoder, vae.config
    widths, channels = config.block_out_channels, config.latent_channels
    code = torch.einsum("cd,bdhw->bchw", colours, pictures)
    for parameter in encoder.parameters():
        parameter.zero_()
    encoder.conv_in.weight[:3, :, 1, 1] = colours

    # 1x1 -> 2x2 -> 4x4 patches and so on, the principal directions of each fitted to what the level before passes on.
    for level, width in enumerate(widths[:-2]):
        block, passed = encoder.down_blocks[level], code.shape[1]
        _let_through(block, passed)
        code = F.pixel_unshuffle(code, 2)
        if code.shape[1] > width:
            directions, _ = _principal(_pixels_of(code), width, F.avg_pool2d(weights, 2 ** (level + 1)).flatten())
        else:
            directions = torch.eye(code.shape[1])
        block.downsamplers[0].conv.weight[: len(directions), :passed] = _gather(directions)
        code = torch.einsum("kd,bdhw->bkhw", directions, code)

    # The last level's coefficients are the latents.
    block, passed = encoder.down_blocks[-2], code.shape[1]
    _let_through(block, passed)
    rows = _pixels_of(F.pixel_unshuffle(code, 2))
    coarse, std = _principal(rows, channels, F.avg_pool2d(weights, patch_of(vae)).flatten())
    spread = std.sqrt()
    coarse = coarse / (std / spread.clamp(min=spread[loud - 1]))[:, None]

    # A norm group holds latents, minus their sum (so that its mean is always 0) and anchors (so that its deviation is known).
    last = block.downsamplers[0].conv
    per_group, latents = widths[-1] // _GROUPS, channels // _GROUPS
    kernel, offset = _gather(coarse), -coarse @ rows.mean(0)
    anchors = _ANCHOR * torch.tensor([1.0, -1.0]).repeat(_ANCHOR_PAIRS)
    place = torch.cat([torch.arange(latents) + g * per_group for g in range(_GROUPS)])
    for g in range(_GROUPS):
        first, own = g * per_group, slice(g * latents, (g + 1) * latents)
        last.weight[first : first + latents, :passed] = kernel[own]
        last.bias[first : first + latents] = offset[own]
        last.weight[first + latents, :passed] = -kernel[own].sum(0)
        last.bias[first + latents] = -offset[own].sum()
        last.bias[first + per_group - len(anchors) : first + per_group] = anchors

    deviation = _ANCHOR * (len(anchors) / per_group) ** 0.5
    encoder.conv_norm_out.weight.fill_(deviation * _GAIN)
    encoder.conv_norm_out.bias.fill_(_OFFSET)
    encoder.conv_out.weight[torch.arange(channels), place, 1, 1] = 1 / _GAIN
    encoder.conv_out.bias[:channels] = -_OFFSET / _GAIN
    encoder.conv_out.bias[channels:] = -9.0  # log-variance of the posterior


def _let_through(block: Any, channels: int) -> None:
    """A residual block of zeros passes its input on, but where it widens it: there its shortcut has to."""
    if (shortcut := block.resnets[0].conv_shortcut) is not None:
        same = torch.arange(channels)
        shortcut.weight[same, same, 0, 0] = 1


def patch_of(vae: "AutoencoderKL") -> int:
    """Pixels a side of the patch that one latent stands for."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


@torch.no_grad()
def encode(vae: "AutoencoderKL", pictures: Float[Tensor, "B 3 H W"], batch: int = 64) -> Float[Tensor, "B C h w"]:
    """Pictures in [0, 1] -> scaled latents, as the diffusion model sees them."""
    modes = [vae.encode(chunk * 2 - 1).latent_dist.mode() for chunk in pictures.split(batch)]
    return torch.cat(modes) * vae.config.scaling_factor


@torch.no_grad()
def affine_encoder(vae: "AutoencoderKL") -> tuple[Float[Tensor, "C d"], Float[Tensor, " C"]]:
    """The encoder as one affine map of a patch, read off by encoding impulses.

    `build_vae` makes the encoder affine in each patch by construction. Training a base model on pictures drawn as it goes
    is three times faster with the map than through the network.

    Returns:
        weight and bias: scaled latent = weight @ patch + bias, the patch in `pixel_unshuffle` order, pictures in [0, 1].
    """
    patch = patch_of(vae)
    numbers = 3 * patch**2
    patches = torch.cat([torch.zeros(1, numbers), torch.eye(numbers)])
    latents = encode(vae, F.pixel_shuffle(patches[:, :, None, None], patch)).flatten(1)
    return (latents[1:] - latents[:1]).T, latents[0]


def encode_affine(
    weight: Float[Tensor, "C d"], bias: Float[Tensor, " C"], pictures: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B C h w"]:
    """Scaled latents by the map of `affine_encoder`."""
    patch = round((weight.shape[1] / 3) ** 0.5)
    return torch.einsum("cd,bdhw->bchw", weight, F.pixel_unshuffle(pictures, patch)) + bias[:, None, None]
