"""(h) What should a VAE and a prior count as an error: entries of LoRA vectors, one scale a tensor, or ΔW?"""

from dataclasses import replace

import torch

from evidence.context import AT_ZERO, ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures
from lorasynth.canonical import Metric

METRICS: dict[str, Metric] = {"canonical": "entries", "delta_W": "updates"}


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """The recipe's VAE and ADALoRA prior, and ridge regression of its latents, on canonical vectors with the cell's distances.

    Returns:
        `score`'s figures of the prior and ("ridge …") of ridge; "reconstructed": `explained` of people's own LoRAs
        through the VAE.
    """
    context = in_metric(context, config["metric"])
    vae, _ = context.vae(seed=seed)
    mean, logvar = context.latents(vae)
    with torch.no_grad():
        own = context.canonicalizer.invert(vae.decode(mean[context.scored]))
    adalora = context.decoded(context.prior_on(mean, logvar, context.recipe.priors[0], seed), vae, **AT_ZERO)
    ridge = context.score(context.decoded(context.ridge(mean), vae), prefix="ridge ")
    return context.score(adalora) | ridge | {"reconstructed": context.explained(own)}


def in_metric(context: ExperimentContext, name: str) -> ExperimentContext:
    """The same zoo in a canonical form with another metric."""
    return replace(context, recipe=replace(context.recipe, metric=METRICS[name]))


EXPERIMENT = Experiment(
    name="metric",
    title="The recipe's VAE and ADALoRA prior on canonical vectors, whose entries have one scale a tensor, and on vectors whose "
    "distances are those of ΔW",
    cells={name: {"metric": name} for name in ("canonical", "delta_W")},
    run=run,
    plotted=("similarity", "ridge similarity"),
    claims=(
        Claim(
            text="A VAE whose errors are those of ΔW keeps more of ΔW, of 256 numbers",
            source="ours",
            criterion=more("reconstructed", "delta_W", "canonical"),
        ),
        Claim(
            text="ADALoRA's likeness gains by it",
            source="ours",
            criterion=more("similarity", "delta_W", "canonical"),
        ),
        Claim(
            text="Ridge's likeness gains by it",
            source="ours",
            criterion=more("ridge similarity", "delta_W", "canonical"),
        ),
    ),
)
