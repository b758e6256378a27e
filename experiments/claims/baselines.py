"""(j) What else makes a LoRA from one photo? Retrieval, a Gaussian, and fitting combinations of the zoo's LoRAs to the photo."""

import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor

from claims.inversion import fit_coefficients, principal_directions
from lorasynth.experiments.experiment import Claim, Config, Experiment, more, times
from lorasynth.experiments.lab import AT_ZERO, Lab, Method, resemblance, seeded
from lorasynth.experiments.statistics import Figures
from lorasynth.prior.baselines import RegressionPrior
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import step_generator

NEIGHBOURS = 5
TIMED = 3  # people whose LoRAs are made one by one, for the seconds


def run(lab: Lab, config: Config, seed: int) -> Figures:
    """A way to make LoRAs from one photo, of people and with a zoo that are the same for all ways.

    Returns:
        `resemblance`'s figures, "explained" (see `Lab.explained`; not of the shipped synthesizer, which has a form of its own),
        the "scale" where one was chosen, and "seconds" of CPU time: the median of a LoRA made alone, from the embedding or
        the encoded photo.
    """
    if config["method"] == "shipped":
        model = Synthesizer.from_pretrained()
        rows = lab.scored[: lab.people]
        drawn = model.synthesize(lab.photo(rows), seed=seed)
        return resemblance(lab.subjects, lab.persons_of(rows), model.canonicalizer.layout, drawn) | {
            "seconds": _seconds(lab, lambda rows: model.synthesize(lab.photo(rows), seed=seed))
        }
    if config["method"] in ("principal", "zoo"):
        # What is fitted to a photo finds its own size.
        method, rows = _fitted(lab, config, seed), lab.scored[: lab.people]
        vectors = lab.canonicalizer.invert(method(rows))
        figures = resemblance(lab.subjects, lab.persons_of(rows), lab.zoo.layout, vectors)
    else:
        method = PREDICTED[config["method"]](lab, config, seed)
        figures = lab.score(method)
    return figures | {"seconds": _seconds(lab, method)}


def _seconds(lab: Lab, method: Method) -> float:
    taken = []
    for row in lab.scored[:TIMED].split(1):
        start = time.process_time()
        method(row)
        taken.append(time.process_time() - start)
    return median(taken)


def _neighbours(lab: Lab, config: Config, _: int) -> Method:
    """The mean LoRA of the people who look most alike."""
    faces, x = lab.faces[lab.train], lab.x[lab.train]
    return lambda rows: x[(lab.photo(rows) @ faces.T).topk(config["count"]).indices].mean(1)


def _gaussian(lab: Lab, config: Config, seed: int) -> Method:
    """A draw from the Gaussian of principal coefficients given the embedding.

    Its mean is ridge regression, its variances, direction by direction, are those of what ridge leaves of the choosing people.
    """
    basis = _principal(lab, config["num_components"])
    coefficients = _coefficients(lab.x, basis)
    ridge = lab.ridge(coefficients)
    left = coefficients[lab.choosing] - ridge.predict(lab.photo(lab.choosing))
    deviation = left.square().mean(0).sqrt()

    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        # The same noise for a person whoever else is asked for.
        noise = torch.stack([torch.randn(len(basis), generator=step_generator(seed, int(row))) for row in rows])
        return (ridge.predict(lab.photo(rows)) + config["temperature"] * deviation * noise) @ basis

    return method


def _coefficients(x: Float[Tensor, "N F"], basis: Float[Tensor, "K F"]) -> Float[Tensor, "N K"]:
    """Of the projection on directions that are at right angles and not of length 1."""
    return x @ basis.T / basis.square().sum(1)


def _ridge(lab: Lab, config: Config, _: int) -> Method:
    """Ridge regression of whole canonical vectors."""
    ridge = lab.ridge(lab.x)
    return lambda rows: ridge.predict(lab.photo(rows))


def _mlp(lab: Lab, config: Config, seed: int) -> Method:
    """An MLP from the embedding to the VAE's latent, from ridge's solution on."""
    train, choosing, target = lab.train, lab.choosing, lab.latents(lab.vae()[0])[0]
    mlp = RegressionPrior.fit(
        lab.embeddings[train], target[train], lab.embeddings[choosing], target[choosing], lab.ridge(target),
        seeded(lab.recipe.regression, seed),
    )  # fmt: skip
    return lab.decoded(mlp.eval())


def _adalora(lab: Lab, config: Config, seed: int) -> Method:
    """The paper's synthesizer, of this zoo alone."""
    return lab.decoded(lab.prior(lab.recipe.priors[0], seed), seed=seed, **AT_ZERO)


PREDICTED: dict[str, Callable[[Lab, Config, int], Method]] = {
    "neighbours": _neighbours, "gaussian": _gaussian, "ridge": _ridge, "mlp": _mlp, "adalora": _adalora,
}  # fmt: skip


def _fitted(lab: Lab, config: Config, seed: int) -> Method:
    """A combination of principal components, or of the LoRAs themselves, fitted to the photo by the denoising loss."""
    if config["method"] == "principal":
        basis = _principal(lab, config["num_components"])
    else:
        basis = lab.x[lab.train] / (len(lab.train) - 1) ** 0.5

    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        return fit_coefficients(
            lab.world.base, lab.canonicalizer, basis, lab.photo_itself(rows),
            steps=config["fitting_steps"], learning_rate=config["learning_rate"], seed=seed,
        )  # fmt: skip

    return method


@lru_cache(maxsize=2)
def _principal(lab: Lab, num: int) -> Float[Tensor, "K F"]:
    return principal_directions(lab.x[lab.train], num)


def _fitting(method: str, learning_rate: float, num_components: int = 0) -> Config:
    return {
        "method": method, "num_components": num_components, "fitting_steps": 60, "learning_rate": learning_rate
    }  # fmt: skip


INVERSIONS = {f"principal{m}": _fitting("principal", 0.1, m) for m in (32, 128, 512)}
EXPERIMENT = Experiment(
    name="baselines",
    title="LoRAs from one photo by retrieval, a Gaussian, ridge, an MLP, the prior, and combinations of the zoo's LoRAs fitted "
    "to the photo by the base's denoising loss (rate and steps chosen on the choosing people)",
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
            text="The shipped synthesizer beats inversion in the zoo's principal space at one photo",
            source="ours; against weights2weights, arXiv 2406.09413",
            criterion=more("similarity", "shipped", tuple(INVERSIONS)),
        ),
        Claim(
            text="A synthesizer that the zoo alone has taught beats mixing the zoo's LoRAs by the diffusion loss ('PCLora')",
            source="Digest, also tried",
            criterion=more("similarity", "adalora", "zoo"),
        ),
        Claim(
            text="Inversion takes 20 times as long as the shipped synthesizer",
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
                ("The shipped synthesizer", "shipped"),
            )
        ),
    ),
)
