"""Is this photo of the kind that the model was made for? A gate at the border of a world."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import OutsideWorldError

_SIDE = 16  # pixels a side of the pictures that are compared
_COMPONENTS = 64
_CORNER = 6  # pixels, of 64
BACKGROUND_LIMIT = 0.03
_MIDDLE = (12, 52)  # pixels, of 64
_FLAT, _GRADED = 0.02, 0.08
LEAST_FLATNESS = 0.42
"""For guards that were stored without a limit of their own: what 99 % of the portraits' pictures reach as PNG of any size."""
_ALLOWANCE = 0.95  # of the flatness of PNGs: as JPEGs they have less
_EDGE, _SLOPE = 0.1, 0.008  # within 3 x 3 pixels, and from one pixel to the next
MOST_SHADING = 0.44
"""For guards that were stored with neither limit: 1.1 times the 99.8th percentile of 600 portraits."""


@dataclass(frozen=True, kw_only=True)
class DomainCheck:
    """Knows how pictures of a world look as a whole.

    Five readings: *Structure* is how much of a picture (small, relative to its contrast) lies outside the leading principal
    components of the world's pictures. *Background* is how uneven the two upper corners are, in themselves and between each
    other (where a world draws on flat backgrounds, a photograph has others). *Contrast* is its standard deviation. *Flatness*
    is how much
    of the middle is without any shading (where a world draws areas of one colour, a photographed face is shaded everywhere).
    *Shading* is how much of the middle rises or falls smoothly, as what is round does under light, however blurred or retouched.
    """

    TENSORS: ClassVar = {"basis": "k 768", "mean": "768", "limits": "n"}  # 768 = 3 colours of _SIDE x _SIDE pixels

    basis: Float[Tensor, "k d"]
    mean: Float[Tensor, " d"]
    # Most structure and background, least contrast. Newer ones: least flatness, most shading, too.
    limits: Float[Tensor, " n"]

    @classmethod
    def fit(cls, pictures: Float[Tensor, "B 3 S S"]) -> "DomainCheck":
        """Fit to pictures of the world.

        The limits are 1.25 times the 99.9th percentiles (at least `BACKGROUND_LIMIT` of the background's), half the least
        contrast, 0.95 times the 0.1th percentile of flatness, and 1.1 times the 99.9th of shading.
        """
        small = _small(pictures)
        mean = small.mean(0)
        _, vectors = torch.linalg.eigh((small - mean).T @ (small - mean) / len(small))
        guard = cls(basis=vectors.flip(1)[:, :_COMPONENTS].T.contiguous(), mean=mean, limits=torch.ones(5))
        readings = guard.readings(pictures)
        structure, uneven = readings[:, :2].quantile(0.999, dim=0) * 1.25
        flatness = readings[:, 3].quantile(0.001) * _ALLOWANCE
        shading = readings[:, 4].quantile(0.999) * 1.1
        uneven, contrast = uneven.clamp(min=BACKGROUND_LIMIT), readings[:, 2].min() / 2
        limits = torch.stack([structure, uneven, contrast, flatness, shading])
        return cls(basis=guard.basis, mean=mean, limits=limits)

    def readings(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 5"]:
        """The five readings of each picture."""
        x = _small(pictures) - self.mean
        outside = (x - x @ self.basis.T @ self.basis).square().mean(1)
        contrast = pictures.std(dim=(2, 3)).mean(1)
        corner = _CORNER * pictures.shape[-1] // 64
        corners = torch.stack([pictures[..., :corner, :corner], pictures[..., :corner, -corner:]], dim=1).flatten(3)
        uneven = torch.maximum(corners.std(3).amax((1, 2)), corners.mean(3).diff(dim=1).abs().amax((1, 2)))
        structure = (outside / (contrast.square() + 1e-3)).sqrt()
        return torch.stack([structure, uneven, contrast, _flatness(pictures), _shading(pictures)], dim=1)

    def check(self, name: str, picture: Float[Tensor, "3 S S"], world: str, about: str) -> None:
        """Raise OutsideWorldError if a picture is not of this world. ``name`` says which picture, unless it is empty."""
        structure, uneven, contrast, flatness, shading = self.readings(picture[None])[0].tolist()
        stored = self.limits.tolist()
        usual = [LEAST_FLATNESS, MOST_SHADING] if len(stored) == 3 else [math.inf]
        most_structure, most_uneven, least_contrast, least_flatness, most_shading = [*stored, *usual][:5]
        wrong = [
            f"{what} {value:.3f}, at {word} {limit:.3f}"
            for what, value, word, limit, bad in (
                ("foreign structure", structure, "most", most_structure, structure > most_structure),
                ("unevenness of the background", uneven, "most", most_uneven, uneven > most_uneven),
                ("contrast", contrast, "least", least_contrast, contrast < least_contrast),
                ("flatness of the middle", flatness, "least", least_flatness, flatness < least_flatness),
                ("shading of the middle", shading, "most", most_shading, shading > most_shading),
            )
            if bad
        ]
        if wrong:
            where = f"{name}: " if name else ""
            raise OutsideWorldError(
                f"{where}expected a picture of the world {world!r}, got something else ({'; '.join(wrong)}). This model "
                f"knows {about} only; for photographs, train a model on them (`lorasynth zoo build --data`)"
            )


def _flatness(pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, " B"]:
    """Of the 3 x 3 patches of the middle that have no edge, the share that has no shading either.

    Why this: skin in a photograph is shaded smoothly, by light and by noise. What is drawn is areas of one colour between edges.
    """
    low, high = (side * pictures.shape[-1] // 64 for side in _MIDDLE)
    middle = pictures[..., low:high, low:high]
    mean = F.avg_pool2d(middle, 3, 1)
    deviation = (F.avg_pool2d(middle.square(), 3, 1) - mean.square()).clamp(min=0).sqrt().amax(1).flatten(1)
    flat, without_edge = ((deviation < limit).float().mean(1) for limit in (_FLAT, _GRADED))
    return flat / without_edge.clamp(min=1e-6)


def _shading(pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, " B"]:
    """The share of the middle's 3 x 3 patches that have no edge and are no level: a plane through their lightness is steep.

    Why this: blur and retouching take texture and noise away, not the light's fall over what is round. Compression's noise has no
    direction, so that its planes are level.
    """
    low, high = (side * pictures.shape[-1] // 64 for side in _MIDDLE)
    light = pictures[..., low:high, low:high].mean(1, keepdim=True)
    # The least-squares plane's slope, of every patch.
    across = torch.tensor([-1.0, 0.0, 1.0], device=light.device).expand(1, 1, 3, 3) / 6
    slope = torch.hypot(F.conv2d(light, across), F.conv2d(light, across.mT))
    without_edge = F.max_pool2d(light, 3, 1) + F.max_pool2d(-light, 3, 1) < _EDGE
    return (without_edge & (slope >= _SLOPE)).float().flatten(1).mean(1)


def _small(pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B d"]:
    return F.interpolate(pictures, (_SIDE, _SIDE), mode="area").flatten(1)
