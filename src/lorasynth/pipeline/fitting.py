"""From a zoo to what it teaches: canonical form, VAE, priors and baselines, each stage a set of files in one folder."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical import Canonicalizer
from lorasynth.lora.factors import delta_W_relative_error
from lorasynth.pipeline.recipe import Recipe
from lorasynth.pipeline.workspace import Workspace, ZooRows
from lorasynth.prior import KernelPrior, MeanPrior, NearestPrior, RegressionPrior, fit_prior
from lorasynth.prior.baselines import Baseline
from lorasynth.prior.training import best_ridge
from lorasynth.storage.files import write_json
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.rows import Rows, chunks
from lorasynth.vae import LoRAVAE, fit_vae


def fit_vae_stage(work: Workspace) -> dict[str, Any]:
    """Fit canonical form and VAE, and write them to the folder.

    Of several processes, which share every batch, the main one writes.

    Returns:
        `fit_vae`'s figures and "delta_W_error": mean relative squared error on the ΔW of validation people, through
        canonical form and VAE and back.
    """
    recipe, data, out = work.fitted, work.rows, work.folder
    reference = work.zoo.init() if recipe.gauge == "anchored" else None
    canonicalizer = Canonicalizer.fit(
        data.vectors.take(data.train), work.zoo.layout, recipe.gauge, reference, recipe.metric
    )
    people = torch.nn.functional.normalize(data.embeddings.mean(1), dim=1)
    vae, metrics = fit_vae(
        canonicalizer.view(data.vectors),
        recipe.vae,
        train_rows=data.train,
        validation_rows=data.validation,
        blocks=canonicalizer.blocks,
        embeddings=people,
        run_dir=out / "run-vae",
        processes=work.processes,
    )
    metrics |= delta_W_errors(data, canonicalizer, vae)
    if work.processes.is_main:
        make_folder(out)
        canonicalizer.save(out / "canonical.safetensors")
        vae.save(out / "vae.safetensors")
        write_json(out / "vae.json", metrics)
    return metrics


@torch.no_grad()
def delta_W_errors(data: ZooRows, canonicalizer: Canonicalizer, vae: LoRAVAE) -> dict[str, float]:
    """Mean relative squared errors on the ΔW of validation people: through form and VAE and back, and of the zoo's mean."""
    average = canonicalizer.invert(torch.zeros(1, canonicalizer.num_features))
    errors, of_the_mean = [], []
    for held in chunks(data.vectors.take(data.validation)):
        back = canonicalizer.invert(vae.decode(vae.encode(canonicalizer.apply(held))[0]))
        errors.append(delta_W_relative_error(canonicalizer.layout, held, back))
        of_the_mean.append(delta_W_relative_error(canonicalizer.layout, held, average.expand(len(held), -1)))
    return {
        "delta_W_error": torch.cat(errors).mean().item(),
        "delta_W_error_of_the_mean": torch.cat(of_the_mean).mean().item(),
    }


def fit_prior_stage(work: Workspace) -> dict[str, Any]:
    """Fit every prior of the recipe and the baselines on the VAE's latents, and write them to the folder's "priors".

    Of several processes, which share every batch of the priors, the main one fits the baselines and writes.
    """
    recipe, data, out = work.fitted, work.rows, work.folder
    canonicalizer, vae = Canonicalizer.load(out / "canonical.safetensors"), LoRAVAE.load(out / "vae.safetensors")
    mean, logvar = latents_of(vae, canonicalizer.view(data.vectors))
    make_folder(out / "priors")
    metrics: dict[str, Any] = {}
    for config in recipe.priors:
        prior, metrics[config.conditioning] = fit_prior(
            mean, logvar, data.embeddings, config, train_rows=data.train, validation_rows=data.validation,
            run_dir=out / f"run-{config.conditioning}", processes=work.processes,
        )  # fmt: skip
        if work.processes.is_main:
            prior.save(out / "priors" / f"{config.conditioning}.safetensors")
    if work.processes.is_main:
        metrics["ridge"] = {"lambda": fit_baselines(recipe, data, mean, out / "priors")}
        write_json(out / "priors.json", metrics)
    return metrics


@torch.no_grad()
def latents_of(vae: LoRAVAE, x: Rows) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N Z"]]:
    """Means and log-variances of canonical vectors that need not fit into memory."""
    mean, logvar, done = torch.empty(len(x), vae.latent_dim), torch.empty(len(x), vae.latent_dim), 0
    for part in chunks(x):
        here = slice(done, done + len(part))
        (mean[here], logvar[here]), done = vae.encode(part), here.stop
    return mean, logvar


def fit_baselines(recipe: Recipe, data: ZooRows, mean: Float[Tensor, "N Z"], folder: Path) -> float:
    """Fit the baselines on latents, write them to ``folder``, and return ridge's lambda."""
    train, held = data.train, data.validation
    ridge, lam = best_ridge(data.embeddings[train], mean[train], data.embeddings[held], mean[held])
    regression = RegressionPrior.fit(
        data.embeddings[train], mean[train], data.embeddings[held], mean[held], ridge, recipe.regression
    )
    few = train[: recipe.max_stored_subjects]
    people = torch.nn.functional.normalize(data.embeddings[few].mean(1), dim=1)
    baselines: dict[str, Baseline] = {
        "ridge": ridge, "regression": regression, "mean": MeanPrior(mean[train]), "nearest": NearestPrior(people, mean[few]),
        "kernel": KernelPrior.fit(people, mean[few], recipe.kernel_lambda),
    }  # fmt: skip
    for name, baseline in baselines.items():
        baseline.save(folder / f"{name}.safetensors")
    return lam
