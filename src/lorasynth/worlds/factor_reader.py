"""Does a generated person have the drawn person's own features? The world knows them, face width or stripes."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.domain import Domain
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_domain

READER_PHOTOS = 6_000
RIDGE = 0.1  # relative to the mean of what pixels vary
_SIZE = 64
_MEAN, _VARIANCE = 0.5, 1 / 12  # of every factor, by how the world is made


@dataclass(frozen=True, kw_only=True)
class FactorReader:
    """Reads a person's identity factors off a picture, by ridge regression on its pixels. No recogniser has a part in it.

    For worlds whose models hold no trained reader (`lorasynth.worlds.reader`), which sees far more.

    Real photos have the least error, and it is far from none: 64 pixels say little of a nose's width or a mole's place. So hold
    a method's score against that of real photos. A score of 0 is the mean person drawn for everybody. Below 0 are persons who
    differ from the mean in wrong ways.
    """

    domain: Domain
    weight: Float[Tensor, "d identity"]
    bias: Float[Tensor, " identity"]
    kind = "linear"

    @classmethod
    @lru_cache(maxsize=1)
    def fit(cls, world: str) -> "FactorReader":
        """Fit it to drawn photos of a world's people whom no other part of the system has seen, nor will be asked about."""
        persons, photos = persons_of(Role.READER, READER_PHOTOS), [i % 7 for i in range(READER_PHOTOS)]
        domain = get_domain(world)
        identity, nuisance = domain.identity_factors(persons), domain.nuisance_factors(persons, photos)
        gram, moment, total = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for who, how in zip(identity.split(500), nuisance.split(500), strict=True):
            x = _pixels(domain.draw(who, how, _SIZE))
            gram, moment, total = gram + x.T @ x, moment + x.T @ (who - _MEAN), total + x.sum(0)
        mean = total / READER_PHOTOS
        gram -= READER_PHOTOS * torch.outer(mean, mean)
        moment -= torch.outer(mean * READER_PHOTOS, (identity - _MEAN).mean(0))
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
        weight = torch.linalg.solve(gram, moment)
        return cls(domain=domain, weight=weight, bias=identity.mean(0) - mean @ weight)

    def read(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B identity"]:
        """The factors, columns as in ``domain.identity``."""
        if pictures.shape[-1] != _SIZE:
            pictures = F.interpolate(pictures, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        return _pixels(pictures) @ self.weight + self.bias

    def explained(self, pictures: Float[Tensor, "N K 3 H W"], persons: list[int]) -> Float[Tensor, "N identity"]:
        """One minus the squared error of each factor over its variance among people, mean over a person's K pictures.

        The mean over people (and factors) is the part of what tells people apart that pictures show.
        """
        found = self.read(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
        return 1 - (found - self.domain.identity_factors(persons)[:, None]).square().mean(1) / _VARIANCE

    def by_name(self, explained: Float[Tensor, "N identity"]) -> dict[str, float]:
        """Mean over people of each factor."""
        return dict(zip(self.domain.identity, explained.mean(0).tolist(), strict=True))


def _pixels(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
    return F.avg_pool2d(pictures, 2).flatten(1)
