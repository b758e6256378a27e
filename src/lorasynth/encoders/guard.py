"""Is this photo of the kind that the model was made for? A gate at the border of a world."""

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


@dataclass(frozen=True, kw_only=True)
class WorldGuard:
    """Knows how pictures of a world look as a whole.

    Three readings: *structure*, how much of a picture (small, relative to its contrast) lies outside the leading principal
    components of the world's pictures; *background*, how uneven the two upper corners are, in themselves and between each other
    (where a world draws on flat backgrounds, a photograph has others); *contrast*, its standard deviation.
    """

    TENSORS: ClassVar = {"basis": "k 768", "mean": "768", "limits": "3"}  # 768 = 3 colours of _SIDE x _SIDE pixels

    basis: Float[Tensor, "k d"]
    mean: Float[Tensor, " d"]
    limits: Float[Tensor, "3"]  # most structure, most background, least contrast

    @classmethod
    def fit(cls, pictures: Float[Tensor, "B 3 S S"]) -> "WorldGuard":
        """Fit to pictures of the world.

        The limits are 1.25 times the 99.9th percentiles (at least `BACKGROUND_LIMIT` of the background's) and half the least
        contrast.
        """
        small = _small(pictures)
        mean = small.mean(0)
        _, vectors = torch.linalg.eigh((small - mean).T @ (small - mean) / len(small))
        guard = cls(basis=vectors.flip(1)[:, :_COMPONENTS].T.contiguous(), mean=mean, limits=torch.ones(3))
        readings = guard.readings(pictures)
        structure, uneven = readings[:, :2].quantile(0.999, dim=0) * 1.25
        limits = torch.stack([structure, uneven.clamp(min=BACKGROUND_LIMIT), readings[:, 2].min() / 2])
        return cls(basis=guard.basis, mean=mean, limits=limits)

    def readings(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3"]:
        """The three readings of each picture."""
        x = _small(pictures) - self.mean
        outside = (x - x @ self.basis.T @ self.basis).square().mean(1)
        contrast = pictures.std(dim=(2, 3)).mean(1)
        corner = _CORNER * pictures.shape[-1] // 64
        corners = torch.stack([pictures[..., :corner, :corner], pictures[..., :corner, -corner:]], dim=1).flatten(3)
        uneven = torch.maximum(corners.std(3).amax((1, 2)), corners.mean(3).diff(dim=1).abs().amax((1, 2)))
        return torch.stack([(outside / (contrast.square() + 1e-3)).sqrt(), uneven, contrast], dim=1)

    def check(self, name: str, picture: Float[Tensor, "3 S S"], world: str, about: str) -> None:
        """Raise OutsideWorldError if a picture is not of this world; ``name`` says which picture, unless it is empty."""
        structure, uneven, contrast = self.readings(picture[None])[0].tolist()
        most_structure, most_uneven, least_contrast = self.limits.tolist()
        wrong = [
            f"{what} {value:.3f}, at {word} {limit:.3f}"
            for what, value, word, limit, bad in (
                ("foreign structure", structure, "most", most_structure, structure > most_structure),
                ("unevenness of the background", uneven, "most", most_uneven, uneven > most_uneven),
                ("contrast", contrast, "least", least_contrast, contrast < least_contrast),
            )
            if bad
        ]
        if wrong:
            where = f"{name}: " if name else ""
            raise OutsideWorldError(
                f"{where}expected a picture of the world {world!r}, got something else ({'; '.join(wrong)}). This model "
                f"knows {about} only; for photographs of people train one on a zoo of faces (docs/real-faces.md)"
            )


def _small(pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B d"]:
    return F.interpolate(pictures, (_SIDE, _SIDE), mode="area").flatten(1)
