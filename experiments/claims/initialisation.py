"""(g) LoRAs that began alike, and LoRAs that began each from its own lora_A, at three ranks: does a gauge bring them together?"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from claims.gauge import GAUGES, Factors, each_module, explained_of_products, plain_form
from evidence.context import ExperimentContext, resemblance
from evidence.experiment import MATTERS, Claim, Config, Criterion, Experiment, Verdict, decide, more
from evidence.statistics import Figures, Results, bootstrap, scores
from lorasynth.canonical import Canonicalizer
from lorasynth.canonical.svd import canonical_factors
from lorasynth.lora.factors import delta_W_inner, delta_W_norm2, delta_W_relative_error
from lorasynth.zoo.adapt import AdaptConfig, train_people
from lorasynth.zoo.initialisation import random_init

PHOTOS_A_STEP = 4
FEW = {"choosing": 24, "scored": 56}  # people, besides those that are learned from


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """LoRAs of some of the zoo's people trained anew, lora_A too, and ridge regression from embedding to LoRA in each gauge.

    Returns:
        "none explained", "svd explained", …: part of the variance of the scored people's ΔW about the mean ΔW; of "products",
        what is predicted is ΔW itself. "own similarity" and "own similarity2": of these LoRAs themselves.
    """
    zoo = _trained_anew(context.with_training_people(config["loras"], seed), config, seed)
    layout, figures = zoo.zoo.layout, {}
    own, of_mean = delta_W_norm2(layout, zoo.vectors[zoo.scored].double()), _deviations(zoo)
    for name in (*GAUGES, "mean-signs", "procrustes"):
        form, x = _in_gauge(zoo, name)
        predicted = form.invert(zoo.ridge(x).predict(zoo.photo(zoo.scored)))
        error = delta_W_relative_error(layout, zoo.vectors[zoo.scored], predicted) * own
        figures[f"{name} explained"] = (1 - error / of_mean).tolist()
    rows = zoo.scored[: context.people]
    drawn = resemblance(context.subjects, zoo.persons_of(rows), layout, zoo.vectors[rows])
    return figures | {"products explained": explained_of_products(zoo)} | {f"own {n}": v for n, v in drawn.items()}


def _trained_anew(context: ExperimentContext, config: Config, seed: int) -> ExperimentContext:
    """A context of fewer people whose LoRAs have the cell's rank and beginning, trained by the zoo's optimizer."""
    parts = [context.train, context.choosing[: FEW["choosing"]], context.scored[: FEW["scored"]]]
    rows, places = torch.cat(parts), torch.arange(sum(map(len, parts))).split([len(part) for part in parts])
    persons, recipe, layout = context.persons_of(rows), context.zoo.recipe, context.zoo.layout.of_rank(config["rank"])
    if config["own_lora_A"]:
        starts = torch.stack([random_init(layout, (seed + 1) * 1_000_000 + person) for person in persons])
    else:
        starts = random_init(layout, seed)
    settings = replace(
        AdaptConfig(**recipe["adapt"]), steps=config["fitting_steps"], batch_size=PHOTOS_A_STEP,
        learning_rate=config["learning_rate"], lora_A="each", strength=1.0, seed=seed,
    )  # fmt: skip
    photos = context.world.photos(persons, recipe["photos"], recipe["first_photo"])
    vectors = train_people(context.world.base, layout, starts, photos, settings)
    return replace(
        context, zoo=replace(context.zoo, layout=layout), persons=persons, vectors=vectors, embeddings=context.embeddings[rows],
        train=places[0], choosing=places[1], scored=places[2],
    )  # fmt: skip


def _deviations(zoo: ExperimentContext) -> Float[Tensor, ""]:
    """Mean squared distance of the scored people's updates from the mean of the training people's."""
    layout, train, scored = zoo.zoo.layout, zoo.vectors[zoo.train].double(), zoo.vectors[zoo.scored].double()
    cross, within = delta_W_inner(layout, scored, train).mean(1), delta_W_inner(layout, train, train).mean()
    return (delta_W_norm2(layout, scored) - 2 * cross + within).mean()


def _in_gauge(zoo: ExperimentContext, name: str) -> tuple[Canonicalizer, Float[Tensor, "N P"]]:
    """Everybody's scaled vectors in a gauge, and the form that takes them back."""
    layout = zoo.zoo.layout
    if name == "procrustes":
        form = Canonicalizer.fit(zoo.vectors[zoo.train], layout, "procrustes")
        return form, form.apply(zoo.vectors)
    change = (lambda A, B: by_svd_and_mean_signs(A, B, zoo.train)) if name == "mean-signs" else GAUGES[name]
    flat = each_module(layout, zoo.vectors, change)
    form = plain_form(layout, flat[zoo.train])
    return form, (flat - form.mean) / form.scale


def by_svd_and_mean_signs(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"], train: Int[Tensor, " n"]
) -> Factors:
    """The paper's form, each direction turned to the side of the training people's mean, as often as that still moves."""
    A, B, _ = canonical_factors(A_NRI, B_NOR)
    largest = train[B[train].square().sum((1, 2)).argmax()]
    mean_A, mean_B = A[largest], B[largest]
    for _ in range(20):
        side = torch.where((A * mean_A).sum(2) + (B * mean_B).sum(1) < 0, -1.0, 1.0).to(A.dtype)  # (N, R)
        A, B = A * side[:, :, None], B * side[:, None, :]
        if (side > 0).all():
            break
        mean_A, mean_B = A[train].mean(0), B[train].mean(0)
    return A, B


def more_within(cell: str, one: str, other: str, bar: float) -> Criterion:
    """A cell has more of one figure than of another."""

    def judge(results: Results) -> Verdict:
        pair = scores(results, cell, one), scores(results, cell, other)
        return decide(f"{cell}, {one} minus {other}", bootstrap(lambda means: means[0] - means[1], *pair), bar)

    return Criterion(
        words=f"of {cell}, {one} minus {other}: the whole interval is above {bar:g} (refuted: below)", judge=judge
    )


RANKS = (1, 4, 8)

EXPERIMENT = Experiment(
    name="initialisation",
    title="Ridge regression from embedding to LoRA vectors of 160 people in several gauges. LoRAs are trained anew, lora_A too, "
    "from one random lora_A for all or from one each, 30 steps of 4 photos",
    cells={
        f"rank{rank}-{start}": {
            "rank": rank,
            "own_lora_A": start == "own",
            "loras": 160,
            "fitting_steps": 30,
            "learning_rate": 0.1,
        }
        for rank in RANKS
        for start in ("shared", "own")
    },
    run=run,
    plotted=("svd explained", "procrustes explained"),
    claims=(
        Claim(
            text="LoRAs that begin from one lora_A can be learned better than LoRAs that begin each from its own",
            source="ours (against a zoo of anybody's LoRAs)",
            criterion=more("products explained", "rank4-shared", "rank4-own"),
        ),
        Claim(
            text="Where all begin alike, the SVD form gains over the factors as they were trained (rank 4)",
            source="Section 3.2",
            criterion=more_within("rank4-shared", "svd explained", "none explained", MATTERS),
        ),
        Claim(
            text="Where each begins from its own lora_A, it gains, too",
            source="Section 3.2",
            criterion=more_within("rank4-own", "svd explained", "none explained", MATTERS),
        ),
        Claim(
            text="At rank 1, where the sign is the whole gauge, turning it to the mean gains over the sign that training left",
            source="ours",
            criterion=more_within("rank1-shared", "mean-signs explained", "svd explained", MATTERS),
        ),
        Claim(
            text="Above rank 1, rotating (Procrustes) gains over turning signs to the mean (rank 4)",
            source="ours",
            criterion=more_within("rank4-shared", "procrustes explained", "mean-signs explained", MATTERS),
        ),
        Claim(
            text="Procrustes loses nothing against the products ΔW, where all begin alike (rank 8)",
            source="ours",
            criterion=more_within("rank8-shared", "procrustes explained", "products explained", -MATTERS),
        ),
    ),
)
