"""Does a picture show what its prompt asked for? The things of the scene, read off the pixels whatever their style."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.worlds.brushes.captions import WHERE
from lorasynth.worlds.brushes.draw import draw
from lorasynth.worlds.brushes.factors import IDENTITY, NUISANCE, SKIES, THINGS
from lorasynth.worlds.probes import Tally, linear_probe
from lorasynth.worlds.subjects import Role, identity_factors, nuisance_factors, persons_of
from lorasynth.worlds.words import which_of

PROBE_PHOTOS = 6_000
_SIZE = 64
# Rows and columns of a 64-pixel scene that hold what is in each place, and what it may be.
_REGIONS = {
    "left": (slice(20, 62), slice(0, 33)),
    "right": (slice(20, 62), slice(31, 64)),
    "sky": (slice(0, 26), slice(2, 62)),
}
_NAMES = {"left": THINGS, "right": THINGS, "sky": SKIES}


@dataclass(frozen=True, kw_only=True)
class SceneProbe:
    """Reads which things a scene shows, without knowing its style: a linear classifier of edges in each of three places.

    A place is obeyed if the likeliest thing there is the one asked for (by chance 1 in 8; in the sky, 1 in 4).
    """

    probes: dict[str, tuple[Float[Tensor, "d kinds"], Float[Tensor, " kinds"]]]

    @classmethod
    def fit(cls) -> "SceneProbe":
        """Fit by ridge regression on drawn scenes, in the styles that the encoder learned from."""
        persons = persons_of(Role.ENCODER, PROBE_PHOTOS)
        identity = identity_factors(persons, len(IDENTITY))
        nuisance = nuisance_factors(persons, [i % 7 for i in range(PROBE_PHOTOS)], len(NUISANCE))
        parts = zip(identity.split(100), nuisance.split(100), strict=True)
        edges = torch.cat([_edges(draw(i, n, _SIZE)) for i, n in parts])
        probes = {}
        for place, names in _NAMES.items():
            kind = which_of(names, nuisance[:, NUISANCE.index(place)])
            probes[place] = linear_probe(_seen(edges, place), F.one_hot(kind, len(names)).float(), ridge=0.1)
        return cls(probes=probes)

    def things(self, pictures: Float[Tensor, "N 3 H W"], place: str) -> Int[Tensor, " N"]:
        """Which thing is likeliest at a place ("left", "right", "sky"), by its number among `THINGS` or `SKIES`."""
        if pictures.shape[-1] != _SIZE:
            pictures = F.interpolate(pictures, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        weight, bias = self.probes[place]
        return (_seen(_edges(pictures), place) @ weight + bias).argmax(1)

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each style drawn for prompt k.

        Returns:
            "left", "right", "sky": as far as prompts ask for them.
        """
        tally = Tally()
        for k, prompt in enumerate(prompts):
            for place, names in _NAMES.items():
                for number, name in enumerate(names):
                    if f"a {name} {WHERE[place]}" in prompt:
                        tally.add(place, self.things(pictures[:, k], place) == number)
        return tally.parts()


def _edges(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 4 h w"]:
    """How strong edges are and which way they run, relative to the picture's own contrast. At half the size."""
    smooth = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    dx, dy = smooth.diff(dim=3, append=smooth[..., -1:]), smooth.diff(dim=2, append=smooth[:, :, -1:])
    parts = torch.stack([dx.square().sum(1), dy.square().sum(1), (dx * dy).sum(1), -(dx * dy).sum(1)], dim=1)
    strength = F.avg_pool2d(parts.clamp(min=0), 2).sqrt()
    return strength / (strength.mean((1, 2, 3), keepdim=True) + 1e-4)


def _seen(edges: Float[Tensor, "N 4 h w"], place: str) -> Float[Tensor, "N d"]:
    rows, columns = (slice(s.start // 2, (s.stop + 1) // 2) for s in _REGIONS[place])
    return edges[:, :, rows, columns].clamp(max=4).flatten(1)
