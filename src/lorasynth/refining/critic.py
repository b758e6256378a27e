"""The critic: a third recogniser, which looks at latents and is neither of the two that score."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base
from lorasynth.gallery import Role
from lorasynth.refining.config import RefineConfig
from lorasynth.subjects import SIMILARITY, Draw, Subjects
from lorasynth.training import step_generator
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.recogniser_training import degrade, train_recogniser, warm_cosine
from lorasynth.worlds.subjects import persons_of

_PHOTOS = 64
"""Photos of a subject, at most, that a student learns from."""
_MIRRORED = 64
"""Subjects that tell whether a mirrored photo is of the same subject."""


def latent_net(base: Base, embedding_dim: int = 512) -> LatentNet:
    """An untrained critic for a base's latents."""
    channels, height, width = base.latent_shape
    return LatentNet(channels, size=min(height, width), embedding_dim=embedding_dim)


def train_critic(subjects: Subjects, config: RefineConfig) -> LatentNet:
    """A recogniser of the base's latents, frozen.

    Where photos can be drawn without end, it learns to tell people apart whom the encoder has not learned from. A folder has
    too few subjects for that. There the critic is a student of the conditioning encoder.

    Args:
        subjects: whose photos.
        config: settings.
    """
    if subjects.draw is not None:
        return recognise(subjects.base, subjects.draw, config)
    return distil(subjects, config)


def recognise(base: Base, draw: Draw, config: RefineConfig) -> LatentNet:
    """A critic by the ArcFace loss, on people that the encoder has not learned from. It is frozen."""

    def see(pictures: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B C h w"]:
        return _loud(base.encode(degrade(pictures, generator)), config, generator)

    torch.manual_seed(config.critic.seed)
    net = latent_net(base)
    persons = persons_of(Role.CRITIC, config.critic_people)
    train_recogniser(draw, persons, config.critic, net=net, see=see, size=base.picture_size)
    return net.requires_grad_(False)


def distil(subjects: Subjects, config: RefineConfig) -> LatentNet:
    """A critic that says of a photo's latent what the conditioning encoder says of the photo. It is frozen.

        loss = 1 - cos(student(latent + noise), encoder's embedding of the photo)

    A latent is mirrored half of the time where `mirrored_alike`. The student is another network than the encoder and sees
    latents, not pictures. What fools it need not fool the encoder, which scores.
    """
    people = subjects.people(Role.ZOO, config.critic_people)
    latents, embeddings = _latents_and_embeddings(subjects, people)
    mirrored_part = 0.5 if mirrored_alike(subjects, people) else 0.0
    student = config.critic
    torch.manual_seed(student.seed)
    net = latent_net(subjects.base, embeddings.shape[1]).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, weight_decay=student.weight_decay, fused=True)
    for step in range(student.steps):
        for group in optimizer.param_groups:
            group["lr"] = student.learning_rate * warm_cosine(step / student.steps)
        generator = step_generator(student.seed, step)
        rows = torch.randint(len(latents), (student.batch_size,), generator=generator)
        x, mirrored = latents[rows], torch.rand(len(rows), 1, 1, 1, generator=generator) < mirrored_part
        x = _loud(torch.where(mirrored, x.flip(-1), x), config, generator)
        loss = 1 - (net(x) * embeddings[rows]).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def mirrored_alike(subjects: Subjects, people: list[int]) -> bool:
    """Whether a photo, for the encoder, is nearer to itself mirrored than to another of its subject: of faces, not of letters."""
    recognise, people = subjects.recogniser(SIMILARITY), people[:_MIRRORED]
    photo = subjects.real(people, 1)[:, 0]
    one, mirrored = (F.normalize(recognise(x), dim=1) for x in (photo, photo.flip(-1)))
    # Of a subject with three photos one is fitted and one is given, so the two are never the same.
    other = F.normalize(subjects.given(people, by=SIMILARITY)[:, 0], dim=1)
    return bool((mirrored * one).sum() >= (other * one).sum())


def _latents_and_embeddings(
    subjects: Subjects, people: list[int]
) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N D"]]:
    """Every photo of some subjects that may be shown, and what the encoder says of it."""
    latents, embeddings = [], []
    for person in people:
        photos = subjects.fitted([person], _PHOTOS)
        latents.append(photos.latents[0])
        embeddings.append(subjects.embedded([person], photos.count)[0])
    return torch.cat(latents), F.normalize(torch.cat(embeddings), dim=1)


def _loud(
    latents: Float[Tensor, "B C h w"], config: RefineConfig, generator: torch.Generator
) -> Float[Tensor, "B C h w"]:
    """Latents with as much noise as the base's predictions have: none of them is clean."""
    loud = config.critic_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
    return latents + loud * torch.randn(latents.shape, generator=generator)
