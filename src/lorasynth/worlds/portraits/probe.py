"""Does a picture show what its prompt asked for? Background and expression, read off the pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.portraits.captions import EXPRESSIONS
from lorasynth.worlds.portraits.draw import draw
from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.probes import Tally, background_asked, background_obeyed, linear_probe
from lorasynth.worlds.subjects import Role, identity_factors, nuisance_factors, persons_of

PROBE_PHOTOS = 6_000
_SIZE = 64
_MOUTH = (slice(34, 58), slice(16, 48))  # rows and columns of a 64-pixel portrait that hold any mouth
_FROWN, _, _SMILE = EXPRESSIONS


@dataclass(frozen=True, kw_only=True)
class PortraitProbe:
    """Reads two things that prompts ask for. Neither reading knows who the person is.

    The background as by `background_obeyed`. The expression is read by a linear probe from the mouth's pixels and
    slants to the expression of drawn photos: a smile or frown is obeyed if the probe finds the mouth on that side of a straight
    one (by chance 1 in 2; the probe is right for 96 % of real smiles and frowns).
    """

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, ""]

    @classmethod
    def fit(cls) -> "PortraitProbe":
        """Fit the probe by ridge regression on drawn photos of the people that the encoder learned from."""
        persons = persons_of(Role.ENCODER, PROBE_PHOTOS)
        photos = [i % 7 for i in range(PROBE_PHOTOS)]
        identity = identity_factors(persons, len(IDENTITY))
        nuisance = nuisance_factors(persons, photos, len(NUISANCE))
        parts = zip(identity.split(500), nuisance.split(500), strict=True)
        x = torch.cat([_mouth(draw(i, n, _SIZE)) for i, n in parts])
        expression = nuisance[:, NUISANCE.index("expression")]
        weight, bias = linear_probe(x, expression)
        return cls(weight=weight, bias=bias)

    def expression(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Where each mouth lies between a frown (0) and a smile (1)."""
        if pictures.shape[-1] != _SIZE:
            pictures = F.interpolate(pictures, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        return _mouth(pictures) @ self.weight + self.bias

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each person drawn for prompt k.

        Returns:
            "background", "expression": as far as prompts ask for them.
        """
        tally = Tally()
        for k, prompt in enumerate(prompts):
            if colour := background_asked(prompt):
                tally.add("background", background_obeyed(pictures[:, k], colour))
            if _SMILE in prompt:
                tally.add("expression", self.expression(pictures[:, k]) > 0.5)
            if _FROWN in prompt:
                tally.add("expression", self.expression(pictures[:, k]) < 0.5)
        return tally.parts()


def _mouth(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
    """Colours of the mouth's region, how strong its edges are, and which way they slant (products of the two differences)."""
    region = pictures[:, :, *_MOUTH]
    dx, dy = region.diff(dim=3)[:, :, 1:], region.diff(dim=2)[:, :, :, 1:]
    # Each brought to about one size.
    parts = (0.3 * region, 3.0 * dy.square().sum(1, keepdim=True), 10.0 * (dx * dy).sum(1, keepdim=True))
    return torch.cat([F.avg_pool2d(part, 2, ceil_mode=True).flatten(1) for part in parts], dim=1)
