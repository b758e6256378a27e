"""What a world's picture VAE keeps of real portraits: visible features, small details, and the error in decibels."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.scoring import detail_scores
from lorasynth.worlds.reader import Reader
from lorasynth.worlds.subjects import REAL_FROM
from lorasynth.worlds.vae import affine_encoder, encode_affine

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def measure_vae(vae: "AutoencoderKL", reader: Reader, persons: list[int], size: int) -> dict[str, Any]:
    """One photo of each person, as it is and through the VAE.

    Args:
        vae: with a patch-PCA encoder.
        reader: of the world's features.
        persons: whom nothing was trained on.
        size: pixels a side.

    Returns:
        "psnr" (mean over pictures, in dB); "features" and "details" (see `Scorer.score`) of "real" photos and of those
        "through" the VAE; "kept", the features through the VAE over those of real photos. At 0.95 or more they survive.
    """
    real = reader.domain.photos(persons, [REAL_FROM] * len(persons), size)
    through = through_vae(vae, real)
    scores = {name: _scores(reader, pictures, persons) for name, pictures in (("real", real), ("through", through))}
    return {
        "people": len(persons),
        "psnr": (-10 * (through - real).square().mean((1, 2, 3)).log10()).mean().item(),
        "kept": scores["through"]["features"]["mean"] / scores["real"]["features"]["mean"],
        **scores,
    }


def through_vae(vae: "AutoencoderKL", pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures, encoded and decoded."""
    latents = encode_affine(*affine_encoder(vae), pictures) / vae.config.scaling_factor
    with torch.no_grad():
        decoded = torch.cat([vae.decode(chunk).sample for chunk in latents.split(16)])
    return (decoded / 2 + 0.5).clamp(0, 1)


def people_with_details(reader: Reader, persons: list[int], each: int) -> list[int]:
    """The first ``each`` of the people who clearly have each detail, nobody twice."""
    features = reader.domain.features
    there, sure = features.presence(*features.of(reader.domain.identity_factors(persons)))
    chosen: list[int] = []
    for column in (there & sure).T:
        having = [person for person, has in zip(persons, column.tolist(), strict=True) if has and person not in chosen]
        chosen += having[:each]
    return chosen


def _scores(reader: Reader, pictures: Float[Tensor, "B 3 H W"], persons: list[int]) -> dict[str, Any]:
    explained = reader.explained(pictures[:, None], persons)
    return {
        "features": interval(explained.nanmean(1)),
        "by_name": reader.by_name(explained),
        "details": detail_scores(reader.details_right(pictures[:, None], persons)),
    }
