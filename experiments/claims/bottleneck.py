"""(e) How tight should the VAE be: its latent's length m and the weight β of its KL?"""

from dataclasses import replace

import torch

from evidence.context import AT_ZERO, ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures

SHORTER = (32, 64, 128, 256)


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """Another VAE, and an ADALoRA prior on its latents.

    Returns:
        `score`'s figures of the prior, "reconstructed" (`explained` of people's own LoRAs through the VAE),
        "active_units", "kl_per_dimension".
    """
    recipe = context.recipe.vae
    m = config["latent_dim"]
    shape = replace(
        recipe, latent_dim=m, kl_weight=config["kl_weight"], num_components=max(m, config["num_components"])
    )
    vae, fitted = context.vae(shape, seed)
    prior = context.prior_on(*context.latents(vae), replace(context.recipe.priors[0], centre="zero"), seed)
    with torch.no_grad():
        own = context.canonicalizer.invert(vae.decode(context.latents(vae)[0][context.scored]))
    return context.score(context.decoded(prior, vae, **AT_ZERO)) | {
        "reconstructed": context.explained(own),
        "active_units": fitted["active_units"],
        "kl_per_dimension": fitted["kl_per_dimension"],
    }


def _cell(latent_dim: int, kl_weight: float) -> Config:
    return {"latent_dim": latent_dim, "kl_weight": kl_weight, "num_components": 384}


EXPERIMENT = Experiment(
    name="bottleneck",
    title="VAEs by the length m of the latent (at β = 1e-4) and by β (at m = 32, where training improves on the linear start), "
    "each with an ADALoRA prior of one size",
    cells={f"m{m}": _cell(m, 1e-4) for m in (*SHORTER, 512)}
    | {f"beta{name}": _cell(32, beta) for name, beta in (("0", 0.0), ("1e-2", 1e-2), ("1", 1.0))},
    run=run,
    claims=(
        Claim(
            text="A latent of m = 512 serves likeness better than shorter ones",
            source="Section 3.3",
            criterion=more("similarity", "m512", tuple(f"m{m}" for m in SHORTER)),
        ),
        Claim(
            text="m = 512 reconstructs better than m = 256",
            source="Section 3.3",
            criterion=more("reconstructed", "m512", "m256"),
        ),
        Claim(
            text="β < 1 (1e-4) serves likeness better than β = 1",
            source="Section 3.3",
            criterion=more("similarity", "m32", "beta1"),
        ),
        Claim(
            text="The KL, at β = 1e-4, serves likeness better than none at all",
            source="Section 3.3",
            criterion=more("similarity", "m32", "beta0"),
        ),
    ),
)
