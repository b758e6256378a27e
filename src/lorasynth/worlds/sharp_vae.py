"""A picture VAE for pictures whose fine details matter: what tells people apart counts more, in its code and in its decoder.

The encoder is the patch PCA of `lorasynth.worlds.vae`, fitted with weights: patches count by how much of a subject and of its
details they hold, colour counts more than brightness. It is known in closed form, so a base model can begin at once. The decoder
is trained on a pool of pictures with the same weights.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.devices import half_precision
from lorasynth.training import LoopConfig, config_record, train
from lorasynth.worlds.pool import Pool
from lorasynth.worlds.vae import affine_encoder, build_vae, encode_affine, patch_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_AREA = 8  # pixels a side of the squares whose mean colours are compared
_CENTRE = (0.0, 0.05, 0.60, 0.75)  # of the ellipse where subjects are: x, y, half axes; pictures span [-1, 1]
_LOOP = LoopConfig(
    steps=5_000, learning_rate=2e-3, warmup_steps=200, weight_decay=0.0, ema_decay=0.999, checkpoint_every_s=120.0
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training of the decoder, on squares of one size."""

    crop: int  # pixels a side, a multiple of the patch's
    batch_size: int
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class SharpVAEConfig:
    """How the VAE is made.

    Small squares first, for many pictures a second. Whole pictures after that, for group norms see a whole picture when the
    VAE is used.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 96)
    latent_channels: int = 32
    loud: int | None = 16  # as many as the code of small pictures has
    pool_people: int = 16_000
    pca_people: int = 2_000  # of those
    chroma: float = 1.5
    centre_weight: float = 2.0  # of a pixel where subjects are, beside 1 of any
    detail_weight: float = 8.0  # of a pixel of glasses, freckles, moles
    edge_weight: float = 0.5
    area_weight: float = 3.0
    latent_noise: float = 0.1  # standard deviation, in scaled latents: generated latents are never exact
    bf16: bool = True  # activations, where the processor multiplies it: 1.7 times faster
    phases: tuple[Phase, ...] = field(
        default_factory=lambda: (
            Phase(crop=64, batch_size=8, loop=_LOOP),
            Phase(crop=128, batch_size=2, loop=replace(_LOOP, steps=3_000, learning_rate=1e-3)),
        )
    )


def build_sharp_vae(pool: Pool, config: SharpVAEConfig) -> "AutoencoderKL":
    """An `AutoencoderKL` with its final encoder and an untrained decoder.

    Args:
        pool: pictures with detail maps.
        config: settings.
    """
    rows = torch.arange(min(config.pca_people, len(pool)))
    zero = torch.zeros_like(rows)
    pictures, details = pool.batch(rows, zero, zero, pool.size).split([3, 1], dim=1)
    weights = pixel_weights(details, centre_map(pool.size).expand_as(details), config)
    torch.manual_seed(config.phases[0].loop.seed)
    return build_vae(
        pictures, weights=weights, chroma=config.chroma,
        widths=config.widths, latent_channels=config.latent_channels, loud=config.loud,
    )  # fmt: skip


def train_sharp_decoder(
    vae: "AutoencoderKL", pool: Pool, config: SharpVAEConfig, *, run_dir: Path | None = None
) -> None:
    """Train the decoder in place, phase after phase. Latents stay what they are.

    Args:
        vae: of `build_sharp_vae`.
        pool: pictures with detail maps.
        config: settings.
        run_dir: for checkpoints and metrics, a folder a phase; the same folder again resumes.
    """
    for number, phase in enumerate(config.phases):
        _train_phase(vae, pool, config, phase, run_dir and run_dir / f"phase-{number + 1}")


def _train_phase(vae: "AutoencoderKL", pool: Pool, config: SharpVAEConfig, phase: Phase, run_dir: Path | None) -> None:
    encoder, centre = affine_encoder(vae), centre_map(pool.size)
    patch = patch_of(vae)
    places = (pool.size - phase.crop) // patch + 1

    def loss_of(generator: torch.Generator) -> Tensor:
        # Squares of random pictures, cut along patches.
        rows = torch.randint(len(pool), (phase.batch_size,), generator=generator)
        top, left = patch * torch.randint(places, (2, phase.batch_size), generator=generator)
        pictures, details = pool.batch(rows, top, left, phase.crop).split([3, 1], dim=1)
        corners = zip(top.tolist(), left.tolist(), strict=True)
        near = torch.stack([centre[y : y + phase.crop, x : x + phase.crop] for y, x in corners])[:, None]
        # Their latents, not quite exact, and what becomes of them.
        latents = encode_affine(*encoder, pictures)
        latents = latents + config.latent_noise * torch.randn(latents.shape, generator=generator)
        with half_precision(config.bf16, cpu=True):
            decoded = vae.decoder(latents / vae.config.scaling_factor)
        return weighted_error(decoded.float(), pictures * 2 - 1, pixel_weights(details, near, config), config)

    vae.decoder.requires_grad_(True)
    record = config_record(config) | config_record(phase)
    record.pop("phases")  # so that later phases may change
    train(
        vae.decoder,
        loss_of,
        phase.loop,
        run_dir=run_dir,
        config_record=record,
        label=f"decoder, squares of {phase.crop}",
    )
    vae.requires_grad_(False)


def weighted_error(
    decoded: Float[Tensor, "B 3 H W"],
    pictures: Float[Tensor, "B 3 H W"],
    weights: Float[Tensor, "B 1 H W"],
    config: SharpVAEConfig,
) -> Float[Tensor, ""]:
    """Absolute error of pixels and of their differences, and squared error of the mean colour of patches, all weighted.

    Differences keep edges sharp. Colours of areas are learned late without a term of their own, for group norms take means away.
    """
    error = decoded - pictures
    down = (error.diff(dim=2).abs() * weights[:, :, 1:]).mean()
    across = (error.diff(dim=3).abs() * weights[:, :, :, 1:]).mean()
    area = (F.avg_pool2d(error, _AREA).square() * F.avg_pool2d(weights, _AREA)).mean()
    return (error.abs() * weights).mean() + config.edge_weight * (down + across) + config.area_weight * area


def pixel_weights(
    details: Float[Tensor, "B 1 H W"], centre: Float[Tensor, "B 1 H W"], config: SharpVAEConfig
) -> Float[Tensor, "B 1 H W"]:
    """How much each pixel counts."""
    return 1 + config.centre_weight * centre + config.detail_weight * details


def centre_map(size: int) -> Float[Tensor, "size size"]:
    """1 within the ellipse where subjects are, 0 outside."""
    x, y, half_width, half_height = _CENTRE
    side = (torch.arange(size) + 0.5) / size * 2 - 1
    return ((((side[None, :] - x) / half_width) ** 2 + ((side[:, None] - y) / half_height) ** 2) < 1).float()
