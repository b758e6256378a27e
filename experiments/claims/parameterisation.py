"""(d) What should the denoiser say: v, the clean latent, or the noise?"""

from dataclasses import replace

from evidence.context import AT_ZERO, ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures

SAMPLED = {"temperature": 1.0, "num_inference_steps": 20}


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """A prior that predicts something else, sampled from noise or at temperature 0."""
    base = replace(context.recipe.priors[0], centre=config["centre"], prediction_type=config["prediction_type"])
    sampler = SAMPLED if config["sampled"] else AT_ZERO
    return context.score(context.decoded(context.prior(base, seed), seed=seed, **sampler))


PREDICTED = {"v": "v_prediction", "x0": "sample", "noise": "epsilon"}

EXPERIMENT = Experiment(
    name="parameterisation",
    title="ADALoRA priors that predict v, x0 or the noise on the same latents, at temperature 0 and sampled (temperature 1)",
    cells={
        name + ("-sampled" if sampled else ""): {"prediction_type": said, "centre": "zero", "sampled": sampled}
        for name, said in PREDICTED.items()
        for sampled in (False, True)
    }
    | {f"{n}-on-ridge": {"prediction_type": PREDICTED[n], "centre": "ridge", "sampled": False} for n in ("v", "x0")},
    run=run,
    claims=(
        Claim(
            text="v-prediction gives more likeness than x0-prediction",
            source="Section 3.4 (x0 and v were tried, v was kept)",
            criterion=more("similarity", "v", "x0"),
        ),
        Claim(
            text="v-prediction gives more likeness than x0-prediction where latents are sampled",
            source="Section 3.4",
            criterion=more("similarity", "v-sampled", "x0-sampled"),
        ),
        Claim(
            text="v-prediction gives more likeness than noise-prediction",
            source="ours",
            criterion=more("similarity", "v-sampled", "noise-sampled"),
        ),
    ),
)
