"""(i) How much of a zoo is needed: learning curves of VAE and priors, and what a power law makes of them."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.experiments.experiment import Claim, Config, Criterion, Experiment, Verdict, decide, more
from lorasynth.experiments.lab import AT_ZERO, Lab
from lorasynth.experiments.statistics import Figures, Results, bootstrap, scores
from lorasynth.experiments.vae_shape import reconstruction
from lorasynth.prior import DiffusionPrior, KernelPrior
from lorasynth.prior.baselines import Baseline

SIZES = (64, 128, 256, 512, 1024)
PAPERS_ZOO = 64_000.0
EXPONENTS = torch.linspace(0.02, 1.5, 149, dtype=torch.float64)


def run(lab: Lab, config: Config, seed: int) -> Figures:
    """Everything fitted to a part of the zoo, drawn by the seed: canonical form, VAE, ridge, kernel, ADALoRA.

    The stem has as many directions and the latent as many numbers as the recipe, or as such a part can give: one less than it has
    LoRAs, and half of them.

    Returns:
        "loras"; "vae explained" of people's own LoRAs; and `Lab.score`'s figures of each method, its name before each.
    """
    part = lab.with_training_people(config["loras"] or len(lab.train), seed)
    n, recipe = len(part.train), part.recipe
    shape = replace(
        recipe.vae, num_components=min(recipe.vae.num_components, n - 1), latent_dim=min(recipe.vae.latent_dim, n // 2)
    )
    vae, _ = part.vae(shape, seed)
    target, logvar = part.latents(vae)
    own = part.canonicalizer.invert(reconstruction(part, vae)(part.scored))
    methods: dict[str, DiffusionPrior | Baseline] = {
        "ridge": part.ridge(target),
        "kernel": KernelPrior.fit(part.faces[part.train], target[part.train], recipe.kernel_lambda),
        "adalora": part.prior_on(target, logvar, recipe.priors[0], seed),
    }
    # In units of the whole zoo's mean LoRA, so that all sizes are measured against one thing.
    figures: Figures = {"loras": float(n), "vae explained": lab.explained(own)}
    for name, prior in methods.items():
        settings = AT_ZERO if name == "adalora" else {}
        method = part.decoded(prior, vae, **settings)
        predicted = part.canonicalizer.invert(method(part.scored))
        figures[f"{name} explained"] = lab.explained(predicted)
        scored = part.likeness(method, part.canonicalizer)
        figures |= {f"{name} {figure}": values for figure, values in scored.items()}
    return figures


def power_law(sizes: Float[Tensor, " K"], error: Float[Tensor, "K R"], at: float) -> Float[Tensor, " R"]:
    """What ``error = floor + b · size^-c``, floor and b not negative, says of another size; fitted by least squares.

    Args:
        sizes: K sizes of a zoo.
        error: R times, an error at each.
        at: the size asked for.
    """
    tried = []
    for c in EXPONENTS:
        u = sizes**-c
        centred = u - u.mean()
        b = ((centred @ error) / centred.square().sum()).clamp(min=0)
        floor = error.mean(0) - b * u.mean()
        # Where the floor would be negative it is zero, and b is fitted alone.
        alone = (u @ error) / u.square().sum()
        b, floor = torch.where(floor < 0, alone, b), floor.clamp(min=0)
        left = (error - floor - b * u[:, None]).square().sum(0)
        tried.append(torch.stack([left, floor + b * at**-c]))
    lefts, predictions = torch.stack(tried).unbind(1)
    return predictions.gather(0, lefts.argmin(0, keepdim=True))[0]


def extrapolated_gain(figure: str, bar: float) -> Criterion:
    """From this zoo to the paper's, by a power law through all sizes, a figure gains at least the bar."""

    def judge(results: Results) -> Verdict:
        cells = list(results)
        sizes = torch.tensor([scores(results, cell, "loras").mean() for cell in cells], dtype=torch.float64)
        whole = int(sizes.argmax())
        gain = bootstrap(
            lambda means: (1 - power_law(sizes, 1 - means, PAPERS_ZOO)) - means[whole],
            *(scores(results, cell, figure) for cell in cells),
        )
        return decide(f"{figure}, extrapolated to {PAPERS_ZOO:,} LoRAs minus with {sizes[whole]:,.0f}", gain, bar)

    words = f"{figure} by a power law at {PAPERS_ZOO:,} LoRAs minus with all of this zoo: above {bar:g} by the whole interval"
    return Criterion(words=f"{words} (refuted: below)", judge=judge)


ZOO_SIZE = Experiment(
    name="zoo-size",
    title="Canonical form, VAE, ridge, kernel ridge and an ADALoRA prior fitted to parts of the zoo",
    cells={f"n{n}": {"loras": n} for n in SIZES} | {"all": {"loras": None}},
    run=run,
    plotted=("adalora similarity", "ridge similarity"),
    claims=(
        Claim(
            text="The VAE still gains from more LoRAs than 512",
            source="Digest, next check 3",
            criterion=more("vae explained", "all", "n512"),
        ),
        Claim(
            text="The prior's likeness still gains from more LoRAs than 512",
            source="Digest, next check 3",
            criterion=more("adalora similarity", "all", "n512"),
        ),
        Claim(
            text="With the paper's 64,000 LoRAs the VAE would explain 0.05 more",
            source="Digest, next check 3",
            criterion=extrapolated_gain("vae explained", 0.05),
        ),
        Claim(
            text="With the paper's 64,000 LoRAs the prior would explain 0.05 more",
            source="Digest, next check 3",
            criterion=extrapolated_gain("adalora explained", 0.05),
        ),
        Claim(
            text="With the paper's 64,000 LoRAs the prior's likeness would gain 0.05",
            source="Digest, next check 3",
            criterion=extrapolated_gain("adalora similarity", 0.05),
        ),
    ),
)
