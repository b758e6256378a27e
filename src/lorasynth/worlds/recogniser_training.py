"""Teaching recognisers who is who: the ArcFace loss, and a contrastive one on other people."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lorasynth.training import step_generator
from lorasynth.worlds.recogniser import ArcFaceNet, PatchTransformer

DrawPhotos = Callable[[list[int], list[int], int], Float[Tensor, "B 3 H W"]]
See = Callable[[Float[Tensor, "B 3 H W"], torch.Generator], Float[Tensor, "B C h w"]]


@dataclass(frozen=True, kw_only=True)
class RecogniserConfig:
    """How a recogniser is trained."""

    loss: Literal["arcface", "contrastive"] = "arcface"
    steps: int = 2_400
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    photos_per_person: int = 40
    margin: float = 0.35
    scale: float = 32.0
    temperature: float = 0.07
    twins_after: float = 1.0  # part of a contrastive training from which on half of a batch are the other half's twins
    seed: int = 0


def degrade(pictures: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Light augmentation: exposure, noise, and for a third of the batch the softness of a resampled picture."""
    n, size = len(pictures), pictures.shape[-1]
    gain = 1 + 0.1 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    pictures = pictures * gain + 0.02 * torch.randn(pictures.shape, generator=generator)
    third = n // 3
    small = int(size * (0.45 + 0.4 * torch.rand((), generator=generator).item()))
    soft = F.interpolate(F.interpolate(pictures[:third], small, mode="area"), size, mode="bilinear")
    return torch.cat([soft, pictures[third:]]).clamp(0, 1)


def arcface_logits(
    cosine: Float[Tensor, "B people"], label: Int[Tensor, " B"], margin: float, scale: float
) -> Float[Tensor, "B people"]:
    """Logits with the additive angular margin on the true person (Deng et al., CVPR 2019, Equation 3)."""
    rows = torch.arange(len(label))
    true = cosine[rows, label].clamp(-1 + 1e-6, 1 - 1e-6)
    logits = cosine.clone()
    logits[rows, label] = torch.cos(torch.acos(true) + margin)
    return logits * scale


def contrastive_loss(embedding: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent (Chen et al., ICML 2020, Equation 1) where rows i and i + B/2 show one person."""
    half = len(embedding) // 2
    similarity = (embedding @ embedding.T / temperature).masked_fill(torch.eye(2 * half, dtype=torch.bool), -math.inf)
    partner = torch.arange(2 * half).roll(half)
    return F.cross_entropy(similarity, partner)


def warm_cosine(progress: float) -> float:
    """Learning rate factor: up in the first 3 % of a training, then half a cosine down to zero."""
    return min(1.0, progress / 0.03) * 0.5 * (1 + math.cos(math.pi * progress))


def train_recogniser(
    draw_photos: DrawPhotos,
    persons: list[int],
    config: RecogniserConfig,
    *,
    net: nn.Module | None = None,
    see: See = degrade,
    size: int = 64,
    report: Callable[[str], None] = print,
) -> nn.Module:
    """Train one recogniser on pictures drawn as it goes.

    Args:
        draw_photos: (persons, photos, size) -> pictures in [0, 1]; that of `with_twins` where the training has twins.
        persons: the people to learn from.
        config: loss and settings.
        net: what to train, its embeddings of 512 numbers for the ArcFace loss; by default the loss decides.
        see: drawn pictures -> what the network is given.
        size: pixels a side of the pictures.
        report: gets a line of progress now and then.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    if net is None:
        net = ArcFaceNet() if config.loss == "arcface" else PatchTransformer()
    centres = nn.Parameter(torch.randn(len(persons), 512) * 0.05)
    parameters = list(net.parameters()) + ([centres] if config.loss == "arcface" else [])
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay, fused=True)
    people = torch.tensor(persons)
    for step in range(config.steps):
        progress = step / config.steps
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cosine(progress)
        g = step_generator(config.seed, step)
        label = _labels(len(persons), config, g)
        who = people[label]
        if config.loss == "contrastive" and progress >= config.twins_after:
            who[1::2] = ~who[::2]
        photo = torch.randint(config.photos_per_person, (len(label),), generator=g)
        seen = see(draw_photos(who.tolist(), photo.tolist(), size), g)
        if config.loss == "arcface":
            cosine = net(seen) @ F.normalize(centres, dim=1).T
            margin = config.margin * min(1.0, progress / 0.3)
            loss = F.cross_entropy(arcface_logits(cosine, label, margin, config.scale), label)
        else:
            loss = contrastive_loss(net(seen), config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            report(f"{config.loss} step {step} of {config.steps} loss {loss.item():.3f}")
    return net.eval()


def _labels(people: int, config: RecogniserConfig, generator: torch.Generator) -> Int[Tensor, " B"]:
    """Rows of people whose photos make a batch: any for the ArcFace loss, different ones twice for the contrastive loss."""
    if config.loss == "arcface":
        return torch.randint(people, (config.batch_size,), generator=generator)
    return torch.randperm(people, generator=generator)[: config.batch_size // 2].repeat(2)


@torch.no_grad()
def verification(
    net: nn.Module, draw_photos: DrawPhotos, persons: list[int], photos_per_person: int = 6
) -> dict[str, float]:
    """How well unseen people are told apart: TAR at FAR 1e-3, and mean cosines of same and different pairs.

    A good recogniser of this world has TAR above 0.99. The threshold is the one that lets 1 in 1,000 different pairs pass.
    """
    who = [p for p in persons for _ in range(photos_per_person)]
    which = list(range(1000, 1000 + photos_per_person)) * len(persons)
    pictures = draw_photos(who, which, 64)
    embedding = torch.cat([net(chunk) for chunk in pictures.split(128)])
    cosine = embedding @ embedding.T
    label = torch.tensor(who)
    same = label[:, None] == label[None, :]
    upper = torch.triu(torch.ones_like(same), diagonal=1)
    positive, negative = cosine[same & upper], cosine[~same & upper]
    threshold = negative.kthvalue(int(len(negative) * 0.999)).values
    return {
        "tar_at_far_1e-3": (positive > threshold).float().mean().item(),
        "threshold": threshold.item(),
        "cosine_same": positive.mean().item(),
        "cosine_different": negative.mean().item(),
        "people": float(len(persons)),
    }
