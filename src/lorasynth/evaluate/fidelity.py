"""Does a picture show what its prompt asked for? Background and view, read off the pixels."""

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.worlds.portraits.captions import VIEWS, third
from lorasynth.worlds.portraits.draw import draw
from lorasynth.worlds.portraits.factors import NUISANCE, Split, identity_factors, nuisance_factors, persons_of
from lorasynth.worlds.portraits.palette import BACKGROUND_RGB, COLOUR_NAMES

PROBE_PHOTOS = 4_000
_SIZE = 64
_FACE = (slice(16, 60), slice(10, 54))  # rows and columns of a 64-pixel portrait that hold the face


@dataclass(frozen=True, kw_only=True)
class PromptFidelity:
    """Reads two things that prompts ask for. Neither reading knows who the person is.

    The background is read from the two upper corners, which a portrait leaves free: it is obeyed if the nearest of the world's
    named colours is the one asked for (by chance 1 in 8). The view is read by a linear probe from pixels to the yaw of drawn
    photos: it is obeyed if the third of the range that the probe finds is the one asked for (by chance 1 in 3; the probe is
    right for 87 % of real photos).
    """

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, ""]

    @classmethod
    def fit(cls) -> "PromptFidelity":
        """Fit the probe by ridge regression on drawn photos of the people that the encoder learned from."""
        persons = persons_of(Split.ENCODER, PROBE_PHOTOS)
        photos = [i % 7 for i in range(PROBE_PHOTOS)]
        nuisance = nuisance_factors(persons, photos)
        x, yaw = _pixels(draw(identity_factors(persons), nuisance, _SIZE)), nuisance[:, NUISANCE.index("yaw")]
        mean = x.mean(0)
        gram = (x - mean).T @ (x - mean)
        gram += 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
        weight = torch.linalg.solve(gram, (x - mean).T @ (yaw - yaw.mean()))
        return cls(weight=weight, bias=yaw.mean() - mean @ weight)

    def background_obeyed(self, pictures: Float[Tensor, "N 3 H W"], colour: str) -> Bool[Tensor, " N"]:
        """Whether each picture has the background asked for."""
        corners = torch.cat([pictures[:, :, :8, :8], pictures[:, :, :8, -8:]], dim=3).mean((2, 3))
        return torch.cdist(corners, BACKGROUND_RGB).argmin(1) == COLOUR_NAMES.index(colour)

    def view_obeyed(self, pictures: Float[Tensor, "N 3 H W"], view: str) -> Bool[Tensor, " N"]:
        """Whether the face of each picture looks where it was asked to."""
        if pictures.shape[-1] != _SIZE:
            pictures = F.interpolate(pictures, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        yaw = _pixels(pictures) @ self.weight + self.bias
        return torch.tensor([third(y) for y in yaw.tolist()]) == VIEWS.index(view)

    def obeyed(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, float]:
        """Part of pictures that obey, picture k of each person drawn for prompt k: "background", "view" as far as asked for."""
        found: dict[str, list[Tensor]] = {}
        for k, prompt in enumerate(prompts):
            if colour := re.search(r"on an? (\w+) background", prompt):
                found.setdefault("background", []).append(self.background_obeyed(pictures[:, k], colour[1]))
            for view in VIEWS:
                if view in prompt:
                    found.setdefault("view", []).append(self.view_obeyed(pictures[:, k], view))
        return {name: torch.cat(parts).float().mean().item() for name, parts in found.items()}


def _pixels(pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
    return F.avg_pool2d(pictures[:, :, *_FACE], 2).flatten(1)
