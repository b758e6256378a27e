"""(b) What should the prior diffuse: the LoRA itself, its principal components, or the VAE's latent?"""

from dataclasses import replace

import torch

from lorasynth.experiments.experiment import ABOVE, MATTERS, Claim, Config, Experiment, Verdict, decide
from lorasynth.experiments.lab import AT_ZERO, Lab
from lorasynth.experiments.statistics import Figures, Results, difference
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import principal_stem


def run(lab: Lab, config: Config, seed: int) -> Figures:
    """The same diffusion prior, steps and width on another target, decoded to canonical vectors.

    Besides `Lab.score`: "explained_canonical", the denoiser's "parameters", and "target_numbers".
    """
    # The paper's centre, zero, for all: what a regression on the target would add is another question.
    prior_config = replace(lab.recipe.priors[0], centre="zero", **config.get("prior", {}))
    if config["target"] == "canonical":
        mean, logvar = lab.x, torch.full_like(lab.x, -20.0)
        vae = None
    else:
        vae = _vae(lab, config)
        mean, logvar = lab.latents(vae)
        if config["target"] == "pca":  # coefficients have no posterior to sample from
            logvar = torch.full_like(logvar, -20.0)
    prior = lab.prior_on(mean, logvar, prior_config, seed)

    @torch.no_grad()
    def predict(embedding: torch.Tensor) -> torch.Tensor:
        z = prior.predict(embedding, **AT_ZERO)
        return z if vae is None else vae.decode(z)

    canonical = predict(lab.embeddings[lab.scored, 0])
    return lab.score(predict) | {
        "explained_canonical": lab.explained_canonical(canonical),
        "parameters": float(sum(p.numel() for p in prior.denoiser.parameters())),
        "target_numbers": float(mean.shape[1]),
    }


def _vae(lab: Lab, config: Config) -> LoRAVAE:
    recipe = lab.recipe.vae
    if config["target"] == "vae":
        return lab.vae(replace(recipe, stem=config["stem"]))[0]
    x = lab.x[lab.train]
    stem = principal_stem(x, recipe.num_components, lab.canonicalizer.blocks, recipe.local_numbers)
    return LoRAVAE.from_stem(x, stem, recipe.latent_dim, recipe.hidden_dim).eval()


def _likeness(results: Results) -> Verdict:
    return decide(
        "similarity, latents minus scaled vectors", difference(results, "vae", "canonical", "similarity"), MATTERS
    )


def _error(results: Results) -> Verdict:
    gain = difference(results, "vae", "canonical", "explained_canonical")
    return decide("part of canonical vectors' variance explained, latents minus scaled vectors", gain, MATTERS)


def _over_pca(results: Results) -> Verdict:
    return decide(
        "similarity, latents minus PCA coefficients", difference(results, "vae", "pca", "similarity"), MATTERS
    )


TARGETS = Experiment(
    name="targets",
    title="One ADALoRA prior (equal width, depth, steps) on scaled canonical vectors, on PCA coefficients and on VAE latents",
    cells={
        "canonical": {"target": "canonical"},
        "pca": {"target": "pca"},
        "vae": {"target": "vae", "stem": "predictable"},
        "vae-principal": {"target": "vae", "stem": "principal"},
    },
    run=run,
    max_seeds=3,
    claims=(
        Claim(
            text="A prior on VAE latents gives more likeness than one on scaled LoRA vectors",
            source="Section 4; digest, key result 2",
            bar=ABOVE,
            judge=_likeness,
        ),
        Claim(
            text="A prior on VAE latents has a lower error than one on scaled LoRA vectors",
            source="Section 4; digest, key result 1",
            bar=ABOVE,
            judge=_error,
        ),
        Claim(
            text="A VAE's latents serve a prior better than principal components",
            source="Section 3.3",
            bar=ABOVE,
            judge=_over_pca,
        ),
    ),
)
