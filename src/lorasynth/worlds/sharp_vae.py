"""A picture VAE that learns encoder and decoder alike, for pictures whose fine details matter.

The patch-PCA code of `lorasynth.worlds.vae` spends its channels on large areas. This one is trained to keep what tells people
apart: errors count more in the middle of the picture, and most where glasses, freckles and moles are.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.training import LoopConfig, config_record, train
from lorasynth.worlds.pool import Pool

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_CENTRE = (0.0, 0.05, 0.60, 0.75)  # of the ellipse where subjects are: x, y, half axes; pictures span [-1, 1]
_AREA, _AREA_WEIGHT = 8, 3.0  # pixels a side; weight of the squared error of an area's colour
_LOOP = LoopConfig(
    steps=5_000, learning_rate=2e-3, warmup_steps=200, weight_decay=0.0, ema_decay=0.999, checkpoint_every_s=120.0
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training of the VAE on squares of one size."""

    crop: int  # pixels a side
    batch_size: int
    decoder_only: bool = False
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class SharpVAEConfig:
    """Shape of the VAE, and how it is trained.

    Small squares first, for many pictures a second. Whole pictures after that, for group norms see a whole picture when the
    VAE is used. A base model can begin then, for latents come from the encoder alone; the decoder goes on beside it.
    """

    channels: tuple[int, ...] = (16, 32, 64, 96)
    latent_channels: int = 16
    num_groups: int = 8
    pool_people: int = 16_000
    edge_weight: float = 0.5
    centre_weight: float = 2.0
    detail_weight: float = 8.0
    kl_weight: float = 1e-3
    bf16: bool = True  # activations; 1.7 times faster on a CPU that multiplies bfloat16
    phases: tuple[Phase, ...] = field(
        default_factory=lambda: (
            Phase(crop=64, batch_size=8, loop=_LOOP),
            Phase(crop=128, batch_size=2, loop=replace(_LOOP, steps=4_000, learning_rate=1e-3)),
        )
    )
    decoder: Phase = field(
        default_factory=lambda: Phase(
            crop=128, batch_size=2, decoder_only=True, loop=replace(_LOOP, steps=10_000, learning_rate=1e-3)
        )
    )


def build_sharp_vae(config: SharpVAEConfig, size: int) -> "AutoencoderKL":
    """An untrained `AutoencoderKL` that halves pictures of ``size`` pixels between its levels."""
    from diffusers import AutoencoderKL

    levels = len(config.channels)
    torch.manual_seed(config.phases[0].loop.seed)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=config.latent_channels, block_out_channels=config.channels,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=config.num_groups, mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False,
        sample_size=size, scaling_factor=1.0,
    )  # fmt: skip


def train_sharp_vae(vae: "AutoencoderKL", pool: Pool, config: SharpVAEConfig, *, run_dir: Path | None = None) -> None:
    """Train the VAE in place on a pool of pictures, phase after phase, then measure its scaling factor.

    Args:
        vae: of `build_sharp_vae`.
        pool: the pictures.
        config: settings; its ``decoder`` is for `train_sharp_decoder`.
        run_dir: for checkpoints and metrics, a folder a phase; the same folder again resumes.
    """
    for number, phase in enumerate(config.phases):
        _train_phase(vae, pool, config, phase, run_dir and run_dir / f"phase-{number + 1}")
    vae.register_to_config(scaling_factor=round(1 / _latent_deviation(vae, pool), 4))


def train_sharp_decoder(
    vae: "AutoencoderKL", pool: Pool, config: SharpVAEConfig, *, run_dir: Path | None = None
) -> None:
    """Train the decoder of a trained VAE further, in place; latents stay what they are.

    Args:
        vae: after `train_sharp_vae`.
        pool: the pictures.
        config: settings.
        run_dir: for checkpoints and metrics; the same folder again resumes.
    """
    _train_phase(vae, pool, config, config.decoder, run_dir)


def _train_phase(vae: "AutoencoderKL", pool: Pool, config: SharpVAEConfig, phase: Phase, run_dir: Path | None) -> None:
    size = pool.rows.shape[-1]
    centre, room = _centre_map(size), size - phase.crop + 1

    def loss_of(generator: torch.Generator) -> Tensor:
        # Squares of random pictures, and how much an error counts at each pixel.
        rows = torch.randint(len(pool), (phase.batch_size,), generator=generator)
        top, left = torch.randint(room, (2, phase.batch_size), generator=generator).unbind()
        pictures, details = pool.batch(rows, top, left, phase.crop).split([3, 1], dim=1)
        near = torch.stack([centre[y : y + phase.crop, x : x + phase.crop] for y, x in zip(top, left, strict=True)])
        weight = 1 + config.centre_weight * near[:, None] + config.detail_weight * details
        return vae_loss(vae, pictures, weight, config, generator)

    vae.requires_grad_(True)
    vae.encoder.requires_grad_(not phase.decoder_only)
    record = config_record(config) | config_record(phase)
    for other in ("phases", "decoder"):
        record.pop(other)
    train(vae, loss_of, phase.loop, run_dir=run_dir, config_record=record, label=f"vae, squares of {phase.crop}")
    vae.requires_grad_(False)


def vae_loss(
    vae: "AutoencoderKL",
    pictures: Float[Tensor, "B 3 H W"],
    weight: Float[Tensor, "B 1 H W"],
    config: SharpVAEConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Weighted absolute error of pixels and of their differences, and the KL divergence of the latents from N(0, 1).

    The squared error of the mean colour of 8x8 pixels is added: colours of areas are learned late without it, for group norms
    take means away.

    The divergence is the mean over latents (Kingma & Welling, ICLR 2014, Appendix B), as the error is one over pixels. It keeps
    noise in the code, which makes the decoder forgive small errors of a generated latent.
    """
    with torch.autocast(pictures.device.type, dtype=torch.bfloat16, enabled=config.bf16):
        moments = vae.encoder(pictures * 2 - 1)
        mean, logvar = moments.float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator)
        decoded = vae.decoder(mean + noise * torch.exp(0.5 * logvar))
    error = decoded.float() - (pictures * 2 - 1)
    down = (error.diff(dim=2).abs() * weight[:, :, 1:]).mean()
    across = (error.diff(dim=3).abs() * weight[:, :, :, 1:]).mean()
    area = (F.avg_pool2d(error, _AREA).square() * F.avg_pool2d(weight, _AREA)).mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    sharp = (error.abs() * weight).mean() + config.edge_weight * (down + across)
    return sharp + _AREA_WEIGHT * area + config.kl_weight * divergence


def _centre_map(size: int) -> Float[Tensor, "size size"]:
    """1 within the ellipse where subjects are, 0 outside."""
    x, y, half_width, half_height = _CENTRE
    side = (torch.arange(size) + 0.5) / size * 2 - 1
    return ((((side[None, :] - x) / half_width) ** 2 + ((side[:, None] - y) / half_height) ** 2) < 1).float()


@torch.no_grad()
def _latent_deviation(vae: "AutoencoderKL", pool: Pool, count: int = 256) -> float:
    """Standard deviation of the latents of the pool's first pictures."""
    size = pool.rows.shape[-1]
    rows, zero = torch.arange(min(count, len(pool))), torch.zeros(min(count, len(pool)), dtype=torch.long)
    pictures = pool.batch(rows, zero, zero, size)[:, :3]
    modes = [vae.encode(chunk * 2 - 1).latent_dist.mode() for chunk in pictures.split(16)]
    return torch.cat(modes).std().item()
