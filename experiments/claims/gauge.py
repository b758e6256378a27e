"""(g) Which of the many (B, A) that mean one update should a zoo be in, before anything is learned from it?"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from evidence.context import ExperimentContext
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures
from lorasynth.canonical import Canonicalizer
from lorasynth.canonical.svd import canonical_factors
from lorasynth.lora.factors import delta_W_inner
from lorasynth.lora.layout import Layout
from lorasynth.prior.training import RIDGE_LAMBDAS

Factors = tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"]]


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """Ridge regression from embedding to LoRA vectors in one gauge; no VAE and no prior, which would have their own say.

    Returns:
        `score`'s figures; of "products", where what is predicted is ΔW itself and no LoRA of this rank, "explained" only.
    """
    layout, gauge = context.zoo.layout, config["gauge"]
    if gauge == "products":
        return {"explained": explained_of_products(context)}
    loose = scrambled(layout, context.vectors, seed) if config["scrambled"] else context.vectors
    if gauge in ("anchored", "procrustes"):
        form = Canonicalizer.fit(
            loose[context.train], layout, gauge, context.zoo.init() if gauge == "anchored" else None
        )
        x = form.apply(loose)
    else:
        flat = torch.cat([each_module(layout, part, GAUGES[gauge]) for part in loose.split(256)])
        form = plain_form(layout, flat[context.train])
        x = (flat - form.mean) / form.scale
    ridge = context.ridge(x)
    return context.score(lambda rows: ridge.predict(context.photo(rows)), form)


def as_it_is(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> Factors:
    """No gauge: the factors that training left."""
    return A_NRI, B_NOR


def by_svd(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> Factors:
    """The paper's form, with the signs that the decomposition happens to give."""
    return canonical_factors(A_NRI, B_NOR)[:2]


def by_svd_and_signs(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> Factors:
    """The paper's form, each direction turned so that the largest entry of its column of B is positive."""
    A, B = by_svd(A_NRI, B_NOR)
    largest = B.gather(1, B.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(B.dtype)  # (N, 1, R)
    return A * sign.transpose(1, 2), B * sign


GAUGES: dict[str, Callable[[Tensor, Tensor], Factors]] = {
    "none": as_it_is, "svd": by_svd, "svd-signs": by_svd_and_signs
}  # fmt: skip


def scrambled(layout: Layout, vectors: Float[Tensor, "N P"], seed: int) -> Float[Tensor, "N P"]:
    """Each module of each LoRA in a gauge of its own: ``B G, G⁻¹ A`` with G a random rotation times a random size.

    The same updates. Our zoo's LoRAs share one frozen lora_A; of LoRAs that others trained, each has its own.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(vectors.device)

    def scramble(A_NRI: Tensor, B_NOR: Tensor) -> Factors:
        n, rank = A_NRI.shape[:2]
        Q, _ = torch.linalg.qr(normal(n, rank, rank))
        size = torch.exp(0.5 * normal(n, 1, 1))
        return Q.transpose(1, 2) @ A_NRI / size, B_NOR @ Q * size

    return each_module(layout, vectors, scramble)


def each_module(
    layout: Layout, vectors: Float[Tensor, "N P"], change: Callable[[Tensor, Tensor], Factors]
) -> Float[Tensor, "N P"]:
    """Vectors with each module's factors changed."""
    return layout.join({name: change(A, B) for name, (A, B) in layout.split(vectors).items()})


def plain_form(layout: Layout, flat: Float[Tensor, "n P"]) -> Canonicalizer:
    """Mean and one scale a tensor of LoRAs that are in their gauge already: a form whose ``invert`` alone is of use."""
    mean, scale = flat.mean(0), torch.ones(flat.shape[1])
    for part in (p for pair in layout.slices.values() for p in pair):
        deviation = (flat[:, part] - mean[part]).square().mean().sqrt()
        if deviation > 1e-6 * mean[part].square().mean().sqrt():
            scale[part] = deviation
    active = torch.ones(flat.shape[1], dtype=torch.bool)
    return Canonicalizer(layout=layout, gauge="procrustes", reference=mean, mean=mean, scale=scale, active=active)


def explained_of_products(context: ExperimentContext, chunk: int = 64) -> list[float]:
    """`explained` of ridge regression to ΔW itself, which knows no gauge, without forming an update.

    Ridge's prediction is a mixture of the training people's updates, so its error follows from inner products of updates.
    """
    n = len(context.train)
    everybody = torch.cat([context.train, context.choosing, context.scored])
    vectors = context.vectors[everybody].double()
    gram = torch.cat([delta_W_inner(context.zoo.layout, part, vectors) for part in vectors.split(chunk)])
    mean_face = context.faces[context.train].mean(0)
    known = (context.faces[context.train] - mean_face).double()
    seen = (torch.cat([context.photo(rows) for rows in (context.choosing, context.scored)]) - mean_face).double()

    def errors(mixture: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
        own, cross = gram.diagonal()[n:], gram[n:, :n]
        return own - 2 * (mixture * cross).sum(1) + ((mixture @ gram[:n, :n]) * mixture).sum(1)

    mean = torch.full((len(seen), n), 1 / n, dtype=torch.float64)
    second = known.T @ known
    tried = []
    for lam in RIDGE_LAMBDAS:
        damped = second + lam * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
        weight = seen @ torch.linalg.solve(damped, known.T)
        # Each update weighs as much as ridge says, and the mean update what is left.
        tried.append(errors(weight - weight.mean(1, keepdim=True) + mean))
    choosing = len(context.choosing)
    best = min(tried, key=lambda error: error[:choosing].mean().item())[choosing:]
    return (1 - best / errors(mean)[choosing:].mean()).tolist()


def _cell(gauge: str, scrambled: bool = True) -> Config:
    return {"gauge": gauge, "scrambled": scrambled}


EXPERIMENT = Experiment(
    name="gauge",
    title="Ridge regression from embedding to LoRA vectors of the same updates in several gauges. All but as-trained begin from "
    "LoRAs each in a random gauge of its own, as those of unlike trainings are",
    cells={
        "as-trained": _cell("none", scrambled=False),
        **{name: _cell(name) for name in (*GAUGES, "procrustes", "anchored", "products")},
    },
    run=run,
    plotted=("explained",),
    claims=(
        Claim(
            text="The SVD form makes LoRAs of unlike gauges learnable",
            source="Section 3.2",
            criterion=more("explained", "svd", "none"),
        ),
        Claim(
            text="A sign rule on each LoRA alone (largest entry positive) is better than whatever signs come out",
            source="ours",
            criterion=more("explained", "svd-signs", "svd"),
        ),
        Claim(
            text="Rotating to a reference (Procrustes) is better than a sign rule on each LoRA alone",
            source="ours",
            criterion=more("explained", "procrustes", "svd-signs"),
        ),
        Claim(
            text="The anchored gauge serves likeness better than Procrustes",
            source="ours",
            criterion=more("similarity", "anchored", "procrustes"),
        ),
        Claim(
            text="The anchored gauge loses something against products ΔW, which have no gauge",
            source="ours (linear in the update, it should lose nothing)",
            criterion=more("explained", "products", "anchored"),
        ),
    ),
)
