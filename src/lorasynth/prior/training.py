"""Fitting the diffusion prior: embeddings of a person's photos -> the latent of the person's LoRA."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import ZooError
from lorasynth.prior.baselines import RidgePrior
from lorasynth.prior.denoiser import Denoiser
from lorasynth.prior.diffusion import DiffusionPrior, PredictionType
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.training import SINGLE_PROCESS, LoopConfig, Processes, config_record, step_generator, train
from lorasynth.vae.loss import sample_posterior

RIDGE_LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Shape and training of the diffusion prior."""

    conditioning: str = "adalora"
    prediction_type: PredictionType = "v_prediction"
    centre: Literal["ridge", "zero"] = "ridge"  # zero is the paper's
    width: int = 256
    depth: int = 2
    dropout: float = 0.4
    condition_dropout: float = 0.1
    embedding_noise: float = 0.0  # norm of noise added to a unit embedding
    batch_size: int = 128
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2_500, learning_rate=1e-3, weight_decay=0.2))


def best_ridge(
    embeddings: Float[Tensor, "N J D"],
    target: Float[Tensor, "N Z"],
    held_embeddings: Float[Tensor, "M J D"],
    held_target: Float[Tensor, "M Z"],
) -> tuple[RidgePrior, float]:
    """Ridge on all photos of the training people, its weight of regularisation chosen on held people.

    Returns:
        The predictor and its ``lam``.
    """
    n, j, d = embeddings.shape
    x, y = embeddings.reshape(n * j, d), target.repeat_interleave(j, dim=0)
    fits = [(lam, RidgePrior.fit(x, y, lam)) for lam in RIDGE_LAMBDAS]
    lam, best = min(fits, key=lambda f: (f[1].predict(held_embeddings[:, 0]) - held_target).square().mean().item())
    return best, lam


def fit_prior(
    z_mean: Float[Tensor, "N Z"],
    z_logvar: Float[Tensor, "N Z"],
    embeddings: Float[Tensor, "N J D"],
    config: PriorConfig,
    *,
    train_rows: Int[Tensor, " n"],
    validation_rows: Int[Tensor, " m"],
    run_dir: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[DiffusionPrior, dict[str, float]]:
    """Train a prior on some people. Others choose the best weights.

    Args:
        z_mean: posterior means of the people's latents.
        z_logvar: and log-variances: each step trains on a sample of the posterior.
        embeddings: of J photos of each person; each step takes one of them, as `synthesize` will get one.
        config: settings.
        train_rows: people to learn from.
        validation_rows: people to choose by.
        run_dir: for checkpoints and metrics; the same folder again resumes.
        processes: that share every batch.

    Returns:
        The prior and "validation_loss", "explained" (part of the held latents' variance that the sampler explains at temperature
        0), "best_step", "seconds"; where it is centred on ridge, "ridge_explained" (what that alone explains) and "ridge_lambda".

    Raises:
        ZooError: fewer than 2 people on either side.
    """
    if len(train_rows) < 2 or len(validation_rows) < 2:
        raise ZooError(
            f"expected at least 2 training and 2 validation people, got {len(train_rows)}, {len(validation_rows)}"
        )
    torch.manual_seed(config.loop.seed)
    held, held_z = embeddings[validation_rows], z_mean[validation_rows]
    centre, lam = None, 0.0
    if config.centre == "ridge":
        centre, lam = best_ridge(embeddings[train_rows], z_mean[train_rows], held, held_z)
    denoiser = Denoiser(
        z_mean.shape[1], embeddings.shape[2], config.width, config.depth, config.conditioning, config.dropout
    )
    prior = DiffusionPrior(denoiser, centre, config.prediction_type)
    # NOTE: the larger spread of the two. Ridge leaves less of the people it was fitted to than of others; but along directions
    # that the VAE's stem has fitted to the training LoRAs' noise, others vary several times less, and in their unit the loss
    # would consist of that noise.
    with torch.no_grad():
        left = [(z_mean[rows] - prior.centre(embeddings[rows, 0])).std(0) for rows in (train_rows, validation_rows)]
        prior.spread.copy_(torch.maximum(*left).clamp(min=1e-6))
    state = prior.centre.state_dict().values()
    data = fingerprint(z_mean, z_logvar, embeddings, train_rows, validation_rows, prior.spread, *state)

    def loss_of(generator: torch.Generator) -> Tensor:
        # 1. People, and one photo of each.
        rows = train_rows[torch.randint(len(train_rows), (config.batch_size,), generator=generator)]
        photo = torch.randint(embeddings.shape[1], (len(rows),), generator=generator)
        e = embeddings[rows, photo]
        # 2. Another photo would have another embedding.
        if config.embedding_noise:
            noise = torch.randn(e.shape, generator=generator) * config.embedding_noise / e.shape[1] ** 0.5
            e = torch.nn.functional.normalize(e + noise, dim=1)
        noise = torch.randn(len(rows), z_mean.shape[1], generator=generator)
        # 3. A sample of the posterior, not its mean.
        z = sample_posterior(z_mean[rows], z_logvar[rows], noise)
        dropped = torch.rand(len(rows), generator=generator) < config.condition_dropout
        return prior.loss_at(*processes.share(z, e, dropped, *prior.draw(z, generator)))

    def validate() -> float:
        total = 0.0
        for k in range(4):  # the same noise each time, so that values can be compared
            nobody = torch.zeros(len(held), dtype=torch.bool)
            total += prior.loss(held_z, held[:, k % held.shape[1]], nobody, step_generator(1, k)).item() / 4
        return total

    metrics = train(
        prior, loss_of, config.loop, validate=validate, run_dir=run_dir, config_record=config_record(config) | {"data": data},
        label=config.conditioning, processes=processes,
    )  # fmt: skip
    variance = (held_z - held_z.mean(0)).square().mean()
    middle = prior.predict(held[:, 0], temperature=0.0)

    def explained(prediction: Tensor) -> float:
        return (1 - (prediction - held_z).square().mean() / variance).item()

    figures = {
        "validation_loss": metrics["best_validation"], "explained": explained(middle),
        "best_step": metrics["best_step"], "seconds": metrics["seconds"],
    }  # fmt: skip
    if centre is not None:
        figures |= {"ridge_explained": explained(centre.predict(held[:, 0])), "ridge_lambda": lam}
    return prior, figures
