"""(b) What should the prior diffuse: the LoRA itself, its principal components, or the VAE's latent?"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evidence.context import AT_ZERO, ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import principal_stem

NO_POSTERIOR = -20.0  # the log-variance of a target that is a point


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """The same diffusion prior, steps and width on another target, decoded to canonical vectors.

    The prior is centred on zero, as the paper's: what a regression on the target would add is another question.

    Returns:
        `score`'s figures, "explained_canonical" (see there), the denoiser's "parameters", and "target_numbers".
    """
    vae = None
    mean, logvar = context.x, torch.full_like(context.x, NO_POSTERIOR)
    if config["target"] != "canonical":
        vae = _vae(context, config)
        mean, logvar = context.latents(vae)
        if config["target"] == "pca":
            logvar = torch.full_like(logvar, NO_POSTERIOR)
    prior = context.prior_on(mean, logvar, replace(context.recipe.priors[0], centre="zero"), seed)

    @torch.no_grad()
    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        z = prior.predict(context.photo(rows), **AT_ZERO)
        return z if vae is None else vae.decode(z)

    return context.score(method) | {
        "explained_canonical": context.explained_canonical(method(context.scored)),
        "parameters": float(sum(p.numel() for p in prior.denoiser.parameters())),
        "target_numbers": float(mean.shape[1]),
    }


def _vae(context: ExperimentContext, config: Config) -> LoRAVAE:
    recipe = context.recipe.vae
    if config["target"] == "vae":
        return context.vae(replace(recipe, stem=config["stem"]))[0]
    x = context.x[context.train]
    stem = principal_stem(x, recipe.num_components, context.canonicalizer.blocks, recipe.local_numbers)
    return LoRAVAE.from_stem(x, stem, recipe.latent_dim, recipe.hidden_dim).eval()  # untrained it is PCA


EXPERIMENT = Experiment(
    name="targets",
    title="One ADALoRA prior (equal width, depth, steps; no centre) on scaled canonical vectors, on PCA coefficients and on VAE "
    "latents, of as many numbers as the coefficients",
    cells={
        "canonical": {"target": "canonical"},
        "pca": {"target": "pca"},
        "vae": {"target": "vae", "stem": "predictable"},
        "vae-principal": {"target": "vae", "stem": "principal"},
    },
    run=run,
    claims=(
        Claim(
            text="A prior on VAE latents gives more likeness than one on scaled LoRA vectors",
            source="Section 4; digest, key result 2",
            criterion=more("similarity", "vae", "canonical"),
        ),
        Claim(
            text="A prior on VAE latents has a lower squared error than one on scaled LoRA vectors",
            source="Section 4; digest, key result 1",
            criterion=more("explained_canonical", "vae", "canonical"),
        ),
        Claim(
            text="A VAE's latents (of the paper's kind, on principal directions) serve a prior better than PCA coefficients",
            source="Section 3.3",
            criterion=more("similarity", "vae-principal", "pca"),
        ),
        Claim(
            text="Latents on predictable directions serve a prior better than latents on principal ones",
            source="ours",
            criterion=more("similarity", "vae", "vae-principal"),
        ),
    ),
)
