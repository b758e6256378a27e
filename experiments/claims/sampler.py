"""(f) How to sample the prior: guidance, steps, temperature."""

from dataclasses import replace

import torch.nn.functional as F

from evidence.context import ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures

STANDARD = {"guidance_scale": 1.0, "num_inference_steps": 8, "temperature": 0.0}
GUIDED = (1.5, 2.0, 4.0)


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """One ADALoRA prior a seed, sampled otherwise.

    Returns:
        `score`'s figures, and "agreement": the cosine of two canonical vectors for the same photo, of different noise.
    """
    prior = context.prior(replace(context.recipe.priors[0], centre="zero"), seed)
    one, other = (context.decoded(prior, seed=s, **config)(context.scored) for s in (seed, seed + 1_000))
    agreement = F.cosine_similarity(one, other, dim=1)
    return context.score(context.decoded(prior, seed=seed, **config)) | {"agreement": agreement.tolist()}


EXPERIMENT = Experiment(
    name="sampler",
    title="One ADALoRA prior sampled in other ways (standard: no guidance, 8 steps, temperature 0)",
    cells={"standard": STANDARD}
    | {f"guidance{g:g}": STANDARD | {"guidance_scale": g} for g in (0.0, *GUIDED)}
    | {f"steps{n}": STANDARD | {"num_inference_steps": n} for n in (1, 3, 50)}
    | {f"temperature{t:g}": STANDARD | {"temperature": t, "num_inference_steps": 20} for t in (0.5, 1.0)},
    run=run,
    claims=(
        Claim(
            text="The prior uses its condition: without (guidance 0) it draws strangers",
            source="Digest, first three experiments",
            criterion=more("similarity", "standard", "guidance0", bar=0.1),
        ),
        Claim(
            text="Classifier-free guidance gains likeness",
            source="ours",
            criterion=more("similarity", f"guidance{GUIDED[0]:g}", "standard"),
        ),
        Claim(
            text="More sampler steps (50 instead of 8) gain likeness",
            source="Digest, design trade-offs",
            criterion=more("similarity", "steps50", "standard"),
        ),
        Claim(
            text="Sampling from noise (temperature 1) costs likeness",
            source="ours",
            criterion=more("similarity", "standard", "temperature1"),
        ),
    ),
)
