"""The two qualities of a zoo: likeness and repeatability, measured on people it does not hold."""

from collections.abc import Callable
from dataclasses import replace

import torch

from lorasynth.evaluate.identity import SCORED_FROM, embed_pictures, interval, person_centroids, similarity
from lorasynth.evaluate.render import render
from lorasynth.worlds.subjects import Split, persons_of
from lorasynth.worlds.world import get_world
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.build import repeatability, train_people
from lorasynth.zoo.store import Zoo


def zoo_quality(zoo: Zoo, people: int, *, report: Callable[[str], None] = print) -> dict[str, object]:
    """Train held-out people twice by the zoo's recipe, with other noise, timesteps and order, and look at the LoRAs.

    Returns:
        "likeness" (similarity of what they draw to other photos of the person, with interval, by the conditioning encoder),
        "agreement" and "agreement_centred" (see `repeatability`), "people".
    """
    world = get_world(zoo.recipe["world"])
    config = AdaptConfig(**zoo.recipe["adapt"])
    persons = persons_of(Split.HELD_OUT, people, offset=5_000)
    trained = []
    for seed in (config.seed, config.seed + 1_000):
        report(f"training {people} held-out people, seed {seed}")
        again = replace(config, seed=seed)
        photos, first_photo = zoo.recipe["photos"], zoo.recipe["first_photo"]
        trained.append(train_people(world, zoo.layout, zoo.init(), persons, photos, again, first_photo=first_photo))
    drawn = render(world.pipe, list(world.prompts), zoo.layout, trained[0])
    centroids = person_centroids(world, persons, world.encoder, SCORED_FROM)
    with torch.no_grad():
        likeness = similarity(embed_pictures(world.encoder, drawn), centroids)
    agreement = repeatability(zoo.layout, trained[0], trained[1], zoo.init())
    return {"likeness": interval(likeness), **agreement, "people": people}
