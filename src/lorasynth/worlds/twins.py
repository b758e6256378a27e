"""Twins: drawn people who differ from somebody else in one small detail. Who is to see details has to tell them apart."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.domain import Domain
from lorasynth.worlds.recogniser_training import DrawPhotos


def twin_of(person: int) -> int:
    """The number of a person's twin, a negative one. The person's, if it is given a twin's."""
    return ~person


def with_twins(domain: Domain) -> DrawPhotos:
    """``domain.photos`` that knows twins, too: the same people, with one of ``domain.details`` more or less.

    Which detail it is depends on the person alone. It is taken away where there is one, and drawn in full where there is none.
    """

    def draw(persons: list[int], photos: list[int], size: int) -> Float[Tensor, "B 3 H W"]:
        who = [person if person >= 0 else twin_of(person) for person in persons]
        identity, nuisance = domain.identity_factors(who), domain.nuisance_factors(who, photos)
        strength = domain.features.of(identity)[0]
        for row, person in enumerate(persons):
            if person < 0:
                detail = domain.details[who[row] % len(domain.details)]
                drawn = strength[row, domain.features.names.index(detail)] > 0
                identity[row, domain.identity.index(detail)] = 0.0 if drawn else 1.0
        parts = zip(identity.split(32), nuisance.split(32), strict=True)
        return torch.cat([domain.draw(i, n, size) for i, n in parts])

    return draw
