"""What a zoo can teach, by its weights alone: for zoos of which nobody can train LoRAs again, as imported ones are."""

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import ZooError
from lorasynth.lora.factors import delta_W_inner
from lorasynth.teaching import shortcoming
from lorasynth.zoo.store import Zoo

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FEWEST = 8
"""LoRAs below which nothing can be said."""


def measure_weights(zoo: Zoo, number: int) -> dict[str, Any]:
    """How far embeddings foretell a zoo's LoRAs, and whether these have a common initialisation.

    Args:
        zoo: which.
        number: how many of its LoRAs to look at, spread evenly over it.

    Returns:
        "loras"; "explained", the part of ΔW's deviation from the mean that kernel ridge regression on embeddings explains, of
        LoRAs left out one by one: 0 is nothing, and about 0.2 what a zoo from one shared initialisation gives; "overlap" of two
        LoRAs' input spaces, and "overlap_by_chance", as of independent initialisations; "same_person" and "other_person", mean
        cosines of updates, where a person has several LoRAs; "verdict", a sentence where the zoo teaches nothing.

    Raises:
        ZooError: fewer than 8 LoRAs.
    """
    persons, rows, embeddings = zoo.open_rows()
    count = min(number, len(persons))
    if count < FEWEST:
        raise ZooError(
            f"{zoo.folder}: expected at least {FEWEST} LoRAs to measure, got {count}; give a larger --measure, or import more"
        )
    places = [place * len(persons) // count for place in range(count)]
    x, faces = rows[torch.tensor(places)], torch.nn.functional.normalize(embeddings[places].mean(1), dim=1)
    gram = delta_W_inner(zoo.layout, x.double(), x.double())
    explained = max(_explained(gram, faces.double(), weight) for weight in LAMBDAS)
    overlap, by_chance = _overlap(zoo, x)
    return {
        "by": "weights", "loras": count, "explained": explained, "overlap": overlap, "overlap_by_chance": by_chance,
        **_cosines(gram, [persons[place] for place in places]),
        "verdict": shortcoming({"ridge": {"explained": explained}}),
    }  # fmt: skip


def _explained(gram: Float[Tensor, "N N"], faces: Float[Tensor, "N D"], weight: float) -> float:
    """``1 - Σ‖ΔW_i - ΔŴ_i‖² / Σ‖ΔW_i - mean of the others‖²``, each left out of its own prediction.

    Kernel ridge with an intercept is linear in the targets, so that the error of leaving one out is that of the fit over
    ``1 - H_ii`` (Allen, 1974), and its square is a quadratic form of the updates' inner products.
    """
    n = len(gram)
    mean = torch.full((n, n), 1 / n, dtype=gram.dtype)
    centred = torch.eye(n, dtype=gram.dtype) - mean
    kernel = centred @ faces @ faces.T @ centred
    hat = mean + kernel @ torch.linalg.inv(kernel + weight * kernel.diagonal().mean() * torch.eye(n, dtype=gram.dtype))

    def error(hat: Tensor) -> float:
        left_out = (torch.eye(n, dtype=gram.dtype) - hat) / (1 - hat.diagonal())[:, None]
        return float(torch.einsum("ij,jk,ik->", left_out, gram, left_out))

    return 1 - error(hat) / max(error(mean), 1e-300)


def _overlap(zoo: Zoo, x: Float[Tensor, "N P"]) -> tuple[float, float]:
    """Mean ``‖Q_i Q_jᵀ‖² / R`` over modules and neighbours, Q the orthonormal rows of lora_A; and R / in-features, by chance."""
    overlaps, chances = [], []
    for A, B in zoo.layout.split(x).values():
        A = canonical_factors(A, B)[0]
        Q = torch.linalg.qr(A.transpose(1, 2).double())[0]
        rank = Q.shape[2]
        overlaps.append(float((Q[:-1].transpose(1, 2) @ Q[1:]).square().sum((1, 2)).mean()) / rank)
        chances.append(rank / Q.shape[1])
    return sum(overlaps) / len(overlaps), sum(chances) / len(chances)


def _cosines(gram: Float[Tensor, "N N"], persons: list[int]) -> dict[str, float]:
    """Mean cosine of updates within people and between them. Nothing where nobody has several."""
    size = gram.diagonal().clamp(min=1e-300).sqrt()
    cosine, pairs = gram / size[:, None] / size[None], defaultdict(list)
    for i, one in enumerate(persons):
        for j in range(i):
            pairs[one == persons[j]].append(float(cosine[i, j]))
    if not pairs[True] or not pairs[False]:
        return {}
    return {
        "same_person": sum(pairs[True]) / len(pairs[True]),
        "other_person": sum(pairs[False]) / len(pairs[False]),
    }
