"""Fitting the weight VAE to a zoo's canonical vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import ZooError
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.rows import Rows, chunks
from lorasynth.training import SINGLE_PROCESS, LoopConfig, Processes, Share, config_record, train
from lorasynth.vae.loss import active_units, kl_divergence, reconstruction_error, sample_posterior, vae_loss
from lorasynth.vae.model import LoRAVAE
from lorasynth.vae.stem import predictable_stem, principal_stem


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Shape and training of the weight VAE."""

    stem: Literal["predictable", "principal"] = "predictable"
    num_components: int = 384
    local_numbers: int = 3_600_000  # that the stem's directions within modules hold; a byte each in the file
    latent_dim: int = 256
    hidden_dim: int = 256
    dropout: float = 0.2
    kl_weight: float = 1e-4
    batch_size: int = 128
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2_000, learning_rate=2e-3, weight_decay=0.1))


def zoo_loss(vae: LoRAVAE, x: Float[Tensor, "B F"], kl_weight: float, share: Share) -> Float[Tensor, ""]:
    """What the VAE is trained for, measured on whole canonical vectors: its stem may learn along (`refining.end_to_end`)."""
    mean, logvar = vae.encode(x)
    reconstructed = vae.decode(sample_posterior(mean, logvar, share.normal(*mean.shape)))
    size = share.mean(x.square().sum(1).mean())
    return (x - reconstructed).square().sum(1).mean() / size + kl_weight * kl_divergence(mean, logvar).mean()


def fit_vae(
    x: Float[Tensor, "N F"] | Rows,
    config: VAEConfig,
    *,
    train_rows: Int[Tensor, " n"],
    validation_rows: Int[Tensor, " m"],
    blocks: Sequence[int] | None = None,
    embeddings: Float[Tensor, "N D"] | None = None,
    run_dir: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[LoRAVAE, dict[str, float]]:
    """Train a VAE on some rows. Other rows (other people) choose the best weights.

    Training is on the stem's coefficients, K numbers a LoRA, and these are in memory. Whole vectors are gone through once or
    twice for the stem, and once for the coefficients.

    Args:
        x: canonical vectors, in memory or on disk; the result is the same.
        config: settings.
        train_rows: LoRAs to learn from.
        validation_rows: LoRAs to choose by.
        blocks: how many numbers of a vector are of each module; by default all are of one.
        embeddings: one of each person, for the stem "predictable".
        run_dir: for checkpoints and metrics; the same folder again resumes.
        processes: that share every batch.

    Returns:
        The VAE, and: "linear_error" (relative squared error of the untrained, linear VAE on the validation rows), "vae_error" (of
        the trained one), "latent_dim", "active_units", "kl_per_dimension", "dimensions_with_kl_below_0.01", "best_step",
        "seconds".

    Raises:
        ZooError: fewer training rows than components, or no embeddings for a stem that needs them.
    """
    if len(train_rows) < 2 or len(validation_rows) < 2:
        raise ZooError(
            f"expected at least 2 training and 2 validation LoRAs, got {len(train_rows)}, {len(validation_rows)}"
        )
    torch.manual_seed(config.loop.seed)
    seen = x.take(train_rows) if isinstance(x, Rows) else x[train_rows]
    sizes = list(blocks or [x.shape[1]])
    if config.stem == "principal":
        stem = principal_stem(seen, config.num_components, sizes, config.local_numbers)
    elif embeddings is not None:
        stem = predictable_stem(seen, embeddings[train_rows], config.num_components, sizes, config.local_numbers)
    else:
        raise ZooError(
            "stem 'predictable' needs the embeddings of the zoo's people; give embeddings= or use 'principal'"
        )
    c, norm2, done = torch.empty(len(x), stem.num_components), torch.empty(len(x)), 0
    for part in chunks(x):
        here = slice(done, done + len(part))
        c[here], norm2[here], done = stem(part), part.square().sum(1), here.stop
    vae, turn = LoRAVAE.from_coefficients(c[train_rows], stem, config.latent_dim, config.hidden_dim, config.dropout)
    c = c @ turn
    held = c[validation_rows]
    missing = (norm2[validation_rows].mean() / vae.size**2 - held.square().sum(1).mean()).item()

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = train_rows[torch.randint(len(train_rows), (config.batch_size,), generator=generator)]
        noise = torch.randn(len(rows), config.latent_dim, generator=generator)
        rows, noise = processes.share(rows, noise)
        mean, logvar = vae.encode_coefficients(c[rows])
        z = sample_posterior(mean, logvar, noise)
        return vae_loss(c[rows], vae.decoder(z), mean, logvar, config.kl_weight)

    @torch.no_grad()
    def validate() -> float:
        return reconstruction_error(held, vae.decoder(vae.encode_coefficients(held)[0]), missing).item()

    vae.eval()
    linear_error = validate()
    record = config_record(config) | {"data": fingerprint(c, train_rows, validation_rows)}
    metrics = train(
        vae,
        loss_of,
        config.loop,
        validate=validate,
        run_dir=run_dir,
        config_record=record,
        label="vae",
        processes=processes,
    )
    with torch.no_grad():
        mean, logvar = vae.encode_coefficients(held)
        kl = kl_divergence(mean, logvar)
    return vae, {
        "linear_error": linear_error, "vae_error": metrics["best_validation"], "active_units": float(active_units(mean)),
        "latent_dim": float(config.latent_dim), "kl_per_dimension": kl.mean().item(),
        "dimensions_with_kl_below_0.01": float((kl < 0.01).sum()), "best_step": metrics["best_step"],
        "seconds": metrics["seconds"],
    }  # fmt: skip
