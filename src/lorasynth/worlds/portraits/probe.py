"""Does a picture show what its prompt asked for? Background, expression and where a face is turned, read off the pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.portraits.captions import EXPRESSIONS, LOOKING
from lorasynth.worlds.portraits.draw import draw
from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.probes import Tally, background_asked, background_obeyed, linear_probe
from lorasynth.worlds.subjects import Role, identity_factors, nuisance_factors, persons_of

PROBE_PHOTOS = 6_000
_SIZE = 64
_MOUTH = (slice(34, 58), slice(16, 48))  # rows and columns of a 64-pixel portrait that hold any mouth
_FACE = (slice(16, 58), slice(10, 54))  # that hold eyes, nose and mouth, however a face is turned
_FROWN, _, _SMILE = EXPRESSIONS


@dataclass(frozen=True, kw_only=True)
class PortraitProbe:
    """Reads three things that prompts ask for. No reading knows who the person is.

    The background as by `background_obeyed`. The expression is read by a linear probe from the mouth's pixels and
    slants to the expression of drawn photos: a smile or frown is obeyed if the probe finds the mouth on that side of a straight
    one (by chance 1 in 2; the probe is right for 96 % of real smiles and frowns). Where a face is turned is read from the edges
    of eyes, nose and mouth in the same way (of 600 real photos, the probe was right for all that look left or right).
    """

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, ""]
    turn_weight: Float[Tensor, " e"]
    turn_bias: Float[Tensor, ""]

    @classmethod
    def fit(cls) -> "PortraitProbe":
        """Fit the probe by ridge regression on drawn photos of the people that the encoder learned from."""
        persons = persons_of(Role.ENCODER, PROBE_PHOTOS)
        photos = [i % 7 for i in range(PROBE_PHOTOS)]
        identity = identity_factors(persons, len(IDENTITY))
        nuisance = nuisance_factors(persons, photos, len(NUISANCE))
        mouths, faces = [], []
        for who, how in zip(identity.split(500), nuisance.split(500), strict=True):
            pictures = draw(who, how, _SIZE)
            mouths.append(_mouth(pictures))
            faces.append(_edges(pictures))
        weight, bias = linear_probe(torch.cat(mouths), nuisance[:, NUISANCE.index("expression")])
        turn_weight, turn_bias = linear_probe(torch.cat(faces), nuisance[:, NUISANCE.index("yaw")])
        return cls(weight=weight, bias=bias, turn_weight=turn_weight, turn_bias=turn_bias)

    def expression(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Where each mouth lies between a frown (0) and a smile (1)."""
        return _mouth(_resized(pictures)) @ self.weight + self.bias

    def turn(self, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Where each face is turned, from the left of the picture (0) to its right (1)."""
        return _edges(_resized(pictures)) @ self.turn_weight + self.turn_bias

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each person drawn for prompt k.

        Returns:
            "background", "expression", "turned": as far as prompts ask for them.
        """
        tally = Tally()
        for k, prompt in enumerate(prompts):
            if colour := background_asked(prompt):
                tally.add("background", background_obeyed(pictures[:, k], colour))
            if _SMILE in prompt:
                tally.add("expression", self.expression(pictures[:, k]) > 0.5)
            if _FROWN in prompt:
                tally.add("expression", self.expression(pictures[:, k]) < 0.5)
            if LOOKING[0] in prompt:
                tally.add("turned", self.turn(pictures[:, k]) < 0.5)
            if LOOKING[1] in prompt:
                tally.add("turned", self.turn(pictures[:, k]) > 0.5)
        return tally.parts()


def _resized(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
    if pictures.shape[-1] != _SIZE:
        pictures = F.interpolate(pictures, (_SIZE, _SIZE), mode="bilinear", antialias=True)
    return pictures


def _edges(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
    """How strong edges of the face are, across and down, and whether brightness rises or falls across them."""
    region = pictures[:, :, *_FACE]
    across, down = region.diff(dim=3)[:, :, 1:], region.diff(dim=2)[:, :, :, 1:]
    parts = (
        across.square().sum(1, keepdim=True).sqrt(),
        down.square().sum(1, keepdim=True).sqrt(),
        across.sum(1, keepdim=True),
    )
    return torch.cat([F.avg_pool2d(part, 2, ceil_mode=True).flatten(1) for part in parts], dim=1)


def _mouth(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
    """Colours of the mouth's region, how strong its edges are, and which way they slant (products of the two differences)."""
    region = pictures[:, :, *_MOUTH]
    dx, dy = region.diff(dim=3)[:, :, 1:], region.diff(dim=2)[:, :, :, 1:]
    # Each brought to about one size.
    parts = (0.3 * region, 3.0 * dy.square().sum(1, keepdim=True), 10.0 * (dx * dy).sum(1, keepdim=True))
    return torch.cat([F.avg_pool2d(part, 2, ceil_mode=True).flatten(1) for part in parts], dim=1)
