"""Identity scores: is the generated person the person in the photo?"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base import render
from lorasynth.lora.layout import Layout
from lorasynth.worlds.subjects import GIVEN_PHOTO, SCORED_FROM, Role, persons_of
from lorasynth.worlds.world import World

FALSE_ACCEPT_RATE = 1e-3  # of real photos of strangers, at which pictures are verified
_STRANGERS = 200  # whom the rate is counted on: 39,800 pairs


@torch.no_grad()
def embed_pictures(net: nn.Module, pictures: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, "N K D"]:
    """Embeddings of K pictures of each of N people."""
    flat = torch.cat([net(part) for part in pictures.flatten(0, 1).split(256)])
    return flat.unflatten(0, pictures.shape[:2])


def person_centroids(
    world: World, persons: list[int], net: nn.Module, first: int, count: int = 8
) -> Float[Tensor, "N D"]:
    """The mean direction of ``count`` real photos of each person: photos that nothing else was given."""
    return F.normalize(world.embeddings(persons, count, first=first, net=net).mean(1), dim=1)


def similarity(embedding: Float[Tensor, "N K D"], centroid: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Mean cosine of a person's pictures with the person's *other* real photos ("R-FaceSim").

    Against other photos, because a copy of the given photo would score 1 and be worthless. 0 is a stranger; real photos of the
    person are the ceiling (about 0.95 by this world's encoder).
    """
    return (embedding * centroid[:, None]).sum(2).mean(1)


@torch.no_grad()
def verification_threshold(world: World, net: nn.Module, rate: float = FALSE_ACCEPT_RATE) -> float:
    """The cosine with a person's centroid that real photos of other people exceed at the given rate (false accept rate).

    The part of pictures above it is the verification rate (TAR at FAR); good is what real photos of the person reach.
    """
    strangers = persons_of(Role.THRESHOLD, _STRANGERS)
    centroids = person_centroids(world, strangers, net, SCORED_FROM)
    cosines = world.embeddings(strangers, 1, first=GIVEN_PHOTO, net=net)[:, 0] @ centroids.T
    return cosines[~torch.eye(_STRANGERS, dtype=torch.bool)].quantile(1 - rate).item()


@torch.no_grad()
def likeness(
    world: World,
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    centroids: Float[Tensor, "N D"],
    num_prompts: int = 2,
) -> float:
    """Mean similarity, by the conditioning encoder, of what LoRAs draw (without guidance, which costs half of the time)."""
    drawn = render(world.base, list(world.prompts[:num_prompts]), layout, vectors, guidance_scale=1.0)
    return similarity(embed_pictures(world.encoder, drawn), centroids).mean().item()


def interval(values: Float[Tensor, " N"], resamples: int = 2_000, seed: int = 0) -> dict[str, float]:
    """Mean over people with its 95 % bootstrap interval (resampling people)."""
    values = values.cpu()
    generator = torch.Generator("cpu").manual_seed(seed)
    rows = torch.randint(len(values), (resamples, len(values)), generator=generator, device="cpu")
    low, high = values[rows].mean(1).quantile(torch.tensor([0.025, 0.975], device="cpu")).tolist()
    return {"mean": values.mean().item(), "low": low, "high": high}
