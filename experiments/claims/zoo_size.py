"""(i) How much of a zoo is needed: learning curves of VAE and priors, and what a power law makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from claims.law import PowerLaw
from claims.vae_shape import reconstruction
from evidence.context import AT_ZERO, ExperimentContext
from evidence.experiment import (
    MATTERS,
    Claim,
    Config,
    Criterion,
    Curves,
    Experiment,
    Line,
    Verdict,
    decide,
    more,
)
from evidence.statistics import Figures, Results, bootstrap, scores
from lorasynth.prior import DiffusionPrior, KernelPrior
from lorasynth.prior.baselines import Baseline

SIZES = (64, 128, 256, 512, 1024)
PAPERS_ZOO = 64_000
FORETOLD = (PAPERS_ZOO, 1_000_000)
METHODS = ("ridge", "kernel", "adalora")
LAWS = ("vae explained", "ridge explained", "adalora explained", "ridge similarity", "adalora similarity")
CELLS = (*(f"n{n}" for n in SIZES), "all")
EARLIER = 512  # a law of so many LoRAs and fewer is held against the whole zoo


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """Everything fitted to a part of the zoo, drawn by the seed: canonical form, VAE, ridge, kernel, ADALoRA.

    The stem has as many directions and the latent as many numbers as the recipe, or as such a part can give: one less than it has
    LoRAs, and half of them.

    Returns:
        "loras"; "vae explained" of people's own LoRAs; and `score`'s figures of each method, its name before each.
    """
    part = context.with_training_people(config["loras"] or len(context.train), seed)
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
    figures: Figures = {"loras": float(n), "vae explained": context.explained(own)}
    for name, prior in methods.items():
        settings = AT_ZERO if name == "adalora" else {}
        method = part.decoded(prior, vae, **settings)
        predicted = part.canonicalizer.invert(method(part.scored))
        figures[f"{name} explained"] = context.explained(predicted)
        scored = part.likeness(method, part.canonicalizer)
        figures |= {f"{name} {figure}": values for figure, values in scored.items()}
    return figures


def sizes_of(results: Results, cells: Sequence[str]) -> Float[Tensor, " K"]:
    """How many LoRAs each cell was fitted to."""
    return torch.tensor([scores(results, cell, "loras").mean() for cell in cells], dtype=torch.float64)


def extrapolated_gain(figure: str, bar: float) -> Criterion:
    """From this zoo to the paper's, by a power law through all sizes, a figure gains at least the bar.

    Nothing is decided by a law that fails its test: one through sizes up to `EARLIER` misses the whole zoo's figure by more than
    `MATTERS`, by its whole interval. (People and seeds drawn anew say nothing about whether there is a law.)
    """

    def judge(results: Results) -> Verdict:
        sizes = sizes_of(results, list(results))
        few, whole = sizes <= EARLIER, int(sizes.argmax())
        tables = [scores(results, cell, figure) for cell in results]
        gain = bootstrap(lambda means: _foretold(sizes, means, PAPERS_ZOO) - means[whole], *tables)
        miss = bootstrap(lambda means: _foretold(sizes[few], means[few], int(sizes[whole])) - means[whole], *tables)
        words = f"{figure}, extrapolated to {PAPERS_ZOO:,} LoRAs minus with {sizes[whole]:,.0f}"
        if miss.low <= MATTERS and miss.high >= -MATTERS:
            return decide(words, gain, bar)
        return Verdict("not decidable here", f"a law of up to {EARLIER:,} LoRAs misses by {miss}; {words}", gain)

    words = (
        f"{figure} by a power law at {PAPERS_ZOO:,} LoRAs minus with all of this zoo: above {bar:g} by the whole interval, by a "
        "law that foretells the whole zoo from smaller ones"
    )
    return Criterion(words=f"{words} (refuted: below)", judge=judge)


def laws(results: Results) -> list[str]:
    """The power law of each figure, what it foretells, and whether one of smaller zoos foretold the whole zoo. A table."""
    sizes = sizes_of(results, list(results))
    few, whole = sizes <= EARLIER, int(sizes.argmax())
    lines = [
        "A law `1 - figure = floor + b · LoRAs^-c` through all sizes, and, as a test of it, through those up to "
        f"{EARLIER:,} LoRAs, which foretells the whole zoo:",
        "",
        f"| figure | floor | c | whole zoo: foretold | measured | {' | '.join(f'at {n:,} LoRAs' for n in FORETOLD)} |",
        "|---" * (5 + len(FORETOLD)) + "|",
    ]
    for figure in LAWS:
        tables = [scores(results, cell, figure) for cell in results]
        readings: list[Callable[[Tensor], Tensor]] = [
            lambda means: PowerLaw.fit(sizes, 1 - means).floor,
            lambda means: PowerLaw.fit(sizes, 1 - means).exponent,
            lambda means: _foretold(sizes[few], means[few], int(sizes[whole])),
            lambda means: means[whole],
            *(partial(_foretold, sizes, size=size) for size in FORETOLD),
        ]
        lines.append(f"| {figure} | " + " | ".join(str(bootstrap(reading, *tables)) for reading in readings) + " |")
    return lines


def _foretold(sizes: Float[Tensor, " K"], means: Float[Tensor, "K R"], size: int) -> Float[Tensor, " R"]:
    return 1 - PowerLaw.fit(sizes, 1 - means)(size)


EXPERIMENT = Experiment(
    name="zoo-size",
    title="Canonical form, VAE, ridge, kernel ridge and an ADALoRA prior fitted to parts of the zoo",
    cells=dict(zip(CELLS, [{"loras": n} for n in (*SIZES, None)], strict=True)),
    run=run,
    plotted=("adalora similarity", "ridge similarity"),
    curves=(
        Curves(x="loras", y="similarity", lines=tuple(Line(m, f"{m} similarity", CELLS) for m in METHODS)),
        Curves(x="loras", y="explained", lines=tuple(Line(m, f"{m} explained", CELLS) for m in ("vae", *METHODS))),
    ),
    further=laws,
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
            source="Digest, next check 3; the law's test came after its cells",
            criterion=extrapolated_gain("vae explained", 0.05),
        ),
        Claim(
            text="With the paper's 64,000 LoRAs the prior would explain 0.05 more",
            source="Digest, next check 3; the law's test came after its cells",
            criterion=extrapolated_gain("adalora explained", 0.05),
        ),
        Claim(
            text="With the paper's 64,000 LoRAs the prior's likeness would gain 0.05",
            source="Digest, next check 3; the law's test came after its cells",
            criterion=extrapolated_gain("adalora similarity", 0.05),
        ),
    ),
)
