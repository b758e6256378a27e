"""The two qualities of a zoo: likeness and repeatability, measured on people it does not hold."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import render
from lorasynth.evaluate.identity import embed_pictures, interval, similarity
from lorasynth.gallery import Role
from lorasynth.lora.factors import delta_W_pairs
from lorasynth.lora.layout import Layout
from lorasynth.subjects import SIMILARITY, Subjects
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.people import train_people
from lorasynth.zoo.store import Zoo


def zoo_quality(
    zoo: Zoo, subjects: Subjects, people: int, *, report: Callable[[str], None] = print
) -> dict[str, object]:
    """Train held-out people twice by the zoo's recipe, with other noise, timesteps and order, and look at the LoRAs.

    Args:
        zoo: that was built here.
        subjects: of its people.
        people: how many.
        report: gets a line now and then.

    Returns:
        "likeness" (similarity of what they draw to other photos of the person, with interval, by the conditioning encoder),
        "agreement" and "agreement_centred" (see `repeatability`), "people".
    """
    config = AdaptConfig(**zoo.recipe["adapt"])
    measured = subjects.people(Role.MEASURED, people)
    photos = subjects.zoo_photos(measured, zoo.recipe["photos"], zoo.recipe.get("first_photo", 0))
    trained = []
    for seed in (config.seed, config.seed + 1_000):
        report(f"training {len(measured)} held-out people, seed {seed}")
        trained.append(train_people(subjects.base, zoo.layout, zoo.init(), photos, replace(config, seed=seed)))
    drawn = render(subjects.base, list(subjects.prompts), zoo.layout, trained[0])
    with torch.no_grad():
        likeness = similarity(embed_pictures(subjects.recogniser(SIMILARITY), drawn), subjects.centroids(measured))
    agreement = repeatability(zoo.layout, trained[0], trained[1], zoo.init())
    return {"likeness": interval(likeness), **agreement, "people": len(measured)}


def repeatability(
    layout: Layout, first: Float[Tensor, "N P"], second: Float[Tensor, "N P"], init: Float[Tensor, " P"]
) -> dict[str, float]:
    """How alike two trainings of the same people come out.

    Args:
        layout: of the LoRAs.
        first: LoRAs of N people.
        second: LoRAs of the same people trained with another order, noise and timesteps.
        init: the shared initialisation.

    Returns:
        "agreement": mean cosine of a person's two updates (1 is a repeatable training); "agreement_centred": the same after
        taking off the mean update of all people, which the cosine alone would be flattered by.
    """

    def cosine(x: Tensor, y: Tensor) -> float:
        scale = (delta_W_pairs(layout, x, x) * delta_W_pairs(layout, y, y)).clamp(min=1e-30).sqrt()
        return (delta_W_pairs(layout, x, y) / scale).mean().item()

    A_same = all(torch.equal(first[:, s], init[s].expand(len(first), -1)) for s, _ in layout.slices.values())
    result = {"agreement": cosine(first, second)}
    if A_same:  # with one shared lora_A, differences of lora_B are differences of updates
        x, y = first.clone(), second.clone()
        for _, s in layout.slices.values():
            x[:, s] -= first[:, s].mean(0)
            y[:, s] -= second[:, s].mean(0)
        result["agreement_centred"] = cosine(x, y)
    return result
