"""(j) What else makes a LoRA from one photo? Retrieval, a Gaussian, and fitting combinations of the zoo's LoRAs to the photo."""

import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from claims.inversion import fit_coefficients, principal_directions
from evidence.context import AT_ZERO, ExperimentContext, Method, resemblance, seeded
from evidence.experiment import Claim, Config, Experiment, more, times
from evidence.statistics import Figures
from lorasynth.prior.baselines import RegressionPrior
from lorasynth.training import step_generator

NEIGHBOURS = 5
TIMED = 3  # people whose LoRAs are made one by one, for the seconds


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """A way to make LoRAs from one photo, of people and with a zoo that are the same for all ways.

    Returns:
        `resemblance`'s figures, "explained" (see `explained`; not of the world's synthesizer, which has a form of its own),
        the "scale" where one was chosen, and "seconds" of CPU time: the median of a LoRA made alone, from the embedding or
        the encoded photo.
    """
    if config["method"] == "shipped":
        model, rows = context.synthesizer, context.scored[: context.people]
        drawn = model.synthesize(context.photo(rows), seed=seed)
        return resemblance(context.subjects, context.persons_of(rows), model.canonicalizer.layout, drawn) | {
            "seconds": _seconds(context, lambda rows: model.synthesize(context.photo(rows), seed=seed))
        }
    if config["method"] in ("principal", "zoo"):
        # What is fitted to a photo finds its own size.
        method, rows = _fitted(context, config, seed), context.scored[: context.people]
        vectors = context.canonicalizer.invert(method(rows))
        figures = resemblance(context.subjects, context.persons_of(rows), context.zoo.layout, vectors)
    else:
        method = PREDICTED[config["method"]](context, config, seed)
        figures = context.score(method)
    return figures | {"seconds": _seconds(context, method)}


def _seconds(context: ExperimentContext, method: Method) -> float:
    taken = []
    for row in context.scored[:TIMED].split(1):
        start = time.process_time()
        method(row)
        taken.append(time.process_time() - start)
    return median(taken)


def _neighbours(context: ExperimentContext, config: Config, _: int) -> Method:
    """The mean LoRA of the people who look most alike."""
    faces, x = context.faces[context.train], context.x[context.train]
    return lambda rows: x[(context.photo(rows) @ faces.T).topk(config["count"]).indices].mean(1)


def _gaussian(context: ExperimentContext, config: Config, seed: int) -> Method:
    """A draw from the Gaussian of principal coefficients given the embedding.

    Its mean is ridge regression, its variances, direction by direction, are those of what ridge leaves of the choosing people.
    """
    basis = _principal(context, config["num_components"])
    coefficients = _coefficients(context.x, basis)
    ridge = context.ridge(coefficients)
    left = coefficients[context.choosing] - ridge.predict(context.photo(context.choosing))
    deviation = left.square().mean(0).sqrt()

    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        # The same noise for a person whoever else is asked for.
        noise = torch.stack([torch.randn(len(basis), generator=step_generator(seed, int(row))) for row in rows])
        return (ridge.predict(context.photo(rows)) + config["temperature"] * deviation * noise) @ basis

    return method


def _coefficients(x: Float[Tensor, "N F"], basis: Float[Tensor, "K F"]) -> Float[Tensor, "N K"]:
    """Of the projection on directions that are at right angles and not of length 1."""
    return x @ basis.T / basis.square().sum(1)


def _ridge(context: ExperimentContext, config: Config, _: int) -> Method:
    """Ridge regression of whole canonical vectors."""
    ridge = context.ridge(context.x)
    return lambda rows: ridge.predict(context.photo(rows))


def _mlp(context: ExperimentContext, config: Config, seed: int) -> Method:
    """An MLP from the embedding to the VAE's latent, from ridge's solution on."""
    train, choosing, target = context.train, context.choosing, context.latents(context.vae()[0])[0]
    mlp = RegressionPrior.fit(
        context.embeddings[train], target[train], context.embeddings[choosing], target[choosing], context.ridge(target),
        seeded(context.recipe.regression, seed),
    )  # fmt: skip
    return context.decoded(mlp.eval())


def _adalora(context: ExperimentContext, config: Config, seed: int) -> Method:
    """The paper's synthesizer, of this zoo alone."""
    return context.decoded(context.prior(context.recipe.priors[0], seed), seed=seed, **AT_ZERO)


PREDICTED: dict[str, Callable[[ExperimentContext, Config, int], Method]] = {
    "neighbours": _neighbours, "gaussian": _gaussian, "ridge": _ridge, "mlp": _mlp, "adalora": _adalora,
}  # fmt: skip


def _fitted(context: ExperimentContext, config: Config, seed: int) -> Method:
    """A combination of principal components, or of the LoRAs themselves, fitted to the photo by the denoising loss."""
    if config["method"] == "principal":
        basis = _principal(context, config["num_components"])
    else:
        basis = context.x[context.train] / (len(context.train) - 1) ** 0.5

    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        return fit_coefficients(
            context.world.base, context.canonicalizer, basis, context.photo_itself(rows),
            steps=config["fitting_steps"], learning_rate=config["learning_rate"], seed=seed,
        )  # fmt: skip

    return method


@lru_cache(maxsize=2)
def _principal(context: ExperimentContext, num: int) -> Float[Tensor, "K F"]:
    return principal_directions(context.x[context.train], num)


def _fitting(method: str, learning_rate: float, num_components: int = 0) -> Config:
    return {
        "method": method, "num_components": num_components, "fitting_steps": 60, "learning_rate": learning_rate
    }  # fmt: skip


INVERSIONS = {f"principal{m}": _fitting("principal", 0.1, m) for m in (32, 128, 512)}
EXPERIMENT = Experiment(
    name="baselines",
    title="LoRAs from one photo by retrieval, a Gaussian, ridge, an MLP, the prior, and combinations of the zoo's LoRAs fitted "
    "to the photo by the base's denoising loss (rate and steps chosen on the validation people who choose)",
    cells={
        **INVERSIONS,
        "zoo": _fitting("zoo", 0.1),
        "nearest": {"method": "neighbours", "count": 1},
        "neighbours5": {"method": "neighbours", "count": NEIGHBOURS},
        "gaussian": {"method": "gaussian", "num_components": 256, "temperature": 1.0},
        "ridge": {"method": "ridge"},
        "mlp": {"method": "mlp"},
        "adalora": {"method": "adalora"},
        "shipped": {"method": "shipped"},
    },
    run=run,
    claims=(
        Claim(
            text="A synthesizer that the zoo alone has taught beats inversion in the zoo's principal space at one photo",
            source="ours; against weights2weights, arXiv 2406.09413",
            criterion=more("similarity", "adalora", tuple(INVERSIONS)),
        ),
        Claim(
            text="The world's synthesizer beats inversion in the zoo's principal space at one photo",
            source="ours; against weights2weights, arXiv 2406.09413",
            criterion=more("similarity", "shipped", tuple(INVERSIONS)),
        ),
        Claim(
            text="A synthesizer that the zoo alone has taught beats mixing the zoo's LoRAs by the diffusion loss ('PCLora')",
            source="Digest, also tried",
            criterion=more("similarity", "adalora", "zoo"),
        ),
        Claim(
            text="Inversion takes 20 times as long as the world's synthesizer",
            source="ours",
            criterion=times("seconds", "principal128", "shipped", 20.0),
        ),
        Claim(
            text="The mean of five neighbours' LoRAs is more like the person than the nearest one's",
            source="ours",
            criterion=more("similarity", "neighbours5", "nearest"),
        ),
        Claim(
            text="A synthesizer that the zoo alone has taught beats a Gaussian of principal coefficients",
            source="ours",
            criterion=more("similarity", "adalora", "gaussian"),
        ),
        Claim(
            text="A synthesizer that the zoo alone has taught beats an MLP regression of the latent",
            source="ours; the authors' regression",
            criterion=more("similarity", "adalora", "mlp"),
        ),
        *(
            Claim(
                text=f"{who} beats ridge regression",
                source="ours (asked when its cells had been run)",
                criterion=more("similarity", cell, "ridge"),
            )
            for who, cell in (
                ("A synthesizer that the zoo alone has taught", "adalora"),
                ("The world's synthesizer", "shipped"),
            )
        ),
    ),
)
