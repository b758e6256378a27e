"""Identity scores: is the generated person the person in the photo?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.base import render
from lorasynth.gallery import Role
from lorasynth.lora.layout import Layout
from lorasynth.subjects import SIMILARITY, Recogniser, Subjects

FALSE_ACCEPT_RATE = 1e-3  # of real photos of strangers, at which pictures are verified
_STRANGERS = 200  # whom the rate is counted on, at most: 39,800 pairs


@torch.no_grad()
def embed_pictures(recognise: Recogniser, pictures: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, "N K D"]:
    """Embeddings of K pictures of each of N people."""
    flat = torch.cat([recognise(part) for part in pictures.flatten(0, 1).split(256)])
    return flat.unflatten(0, pictures.shape[:2])


def similarity(embedding: Float[Tensor, "N K D"], centroid: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Mean cosine of a person's pictures with the person's *other* real photos ("R-FaceSim").

    Against other photos, because a copy of the given photo would score 1 and be worthless. 0 is a stranger. Real photos of the
    person are the ceiling (about 0.95 by this world's encoder).
    """
    return (embedding * centroid[:, None]).sum(2).mean(1)


@torch.no_grad()
def verification_threshold(subjects: Subjects, by: str, rate: float = FALSE_ACCEPT_RATE) -> float:
    """The cosine with a person's centroid that real photos of other people exceed at the given rate (false accept rate).

    The part of pictures above it is the verification rate (TAR at FAR). Real photos of the person are the ceiling.
    """
    strangers = subjects.people(Role.THRESHOLD, _STRANGERS)
    cosines = subjects.given(strangers, by=by)[:, 0] @ subjects.centroids(strangers, by).T
    return cosines[~torch.eye(len(strangers), dtype=torch.bool)].quantile(1 - rate).item()


@torch.no_grad()
def likeness(
    subjects: Subjects,
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    centroids: Float[Tensor, "N D"],
    num_prompts: int = 2,
) -> float:
    """Mean similarity, by the conditioning encoder, of what LoRAs draw (without guidance, which costs half of the time)."""
    drawn = render(subjects.base, list(subjects.prompts[:num_prompts]), layout, vectors, guidance_scale=1.0)
    return similarity(embed_pictures(subjects.recogniser(SIMILARITY), drawn), centroids).mean().item()


def copy_paste(
    drawn: Float[Tensor, "K D"], given: Float[Tensor, " D"], others: Float[Tensor, "J D"]
) -> Float[Tensor, " K"]:
    """How much nearer each picture of a person is to the given photo than to other photos of the person (Xu et al., WithAnyone).

    By angles θ between embeddings: ``(θ(drawn, other) - θ(drawn, given)) / θ(other, given)``, each angle the mean over the other
    photos. 1 is the given photo again. A new photo of the person has about 0, and so has a stranger's.
    """
    to_given, to_others, apart = (
        (a @ b.T).clamp(-1, 1).acos().mean(1) for a, b in ((drawn, given[None]), (drawn, others), (given[None], others))
    )
    return (to_others - to_given) / apart.clamp(min=1e-6)


def average_precision(
    drawn: Float[Tensor, "K D"], gallery: Float[Tensor, "M D"], own: Bool[Tensor, " M"]
) -> Float[Tensor, " K"]:
    """Whether each picture finds the photos of its person in a gallery: the mean precision at the ranks of these photos.

    1 where all of them come first. A picture without an embedding (all zeros) finds nobody.
    """
    found = own[(drawn @ gallery.T).argsort(dim=1, descending=True)]
    precision = found.cumsum(1) / torch.arange(1, len(gallery) + 1)
    return (precision * found).sum(1) / own.sum() * (drawn.norm(dim=1) > 0)


def interval(values: Float[Tensor, " N"], resamples: int = 2_000, seed: int = 0) -> dict[str, float]:
    """Mean over people with its 95 % bootstrap interval (resampling people)."""
    values = values.cpu()
    generator = torch.Generator("cpu").manual_seed(seed)
    rows = torch.randint(len(values), (resamples, len(values)), generator=generator, device="cpu")
    low, high = values[rows].mean(1).quantile(torch.tensor([0.025, 0.975], device="cpu")).tolist()
    return {"mean": values.mean().item(), "low": low, "high": high}
