"""Is this photo of the kind that the model was made for? A gate at the border of a world."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import OutsideWorldError

PATCH = 8


@dataclass(frozen=True, kw_only=True)
class WorldGuard:
    """Knows how pictures of a world look in detail: the space their 8x8 patches and their embedding's features live in.

    Two readings: how much of a picture's patches lies outside the world's leading patch components, relative to the picture's own
    contrast (textures and photographs have far more there than drawings); and how far the encoder's features are from those of
    the world's pictures (Mahalanobis distance on their leading components).
    """

    patch_basis: Float[Tensor, "k d"]
    patch_mean: Float[Tensor, " d"]
    feature_basis: Float[Tensor, "m D"]  # already divided by the features' standard deviation along it
    feature_mean: Float[Tensor, " D"]
    limits: Float[Tensor, "2"]

    @classmethod
    def fit(
        cls, pictures: Float[Tensor, "B 3 S S"], features: Float[Tensor, "B D"], *, margin: float = 1.25
    ) -> "WorldGuard":
        """Fit to in-world pictures and the encoder's features of them; limits are ``margin`` times the 99.9th percentile."""
        patches = F.pixel_unshuffle(pictures, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH * PATCH)
        mean = patches.mean(0)
        _, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        f_mean = features.mean(0)
        values, directions = torch.linalg.eigh((features - f_mean).T @ (features - f_mean) / len(features))
        guard = cls(
            patch_basis=vectors.flip(1)[:, :48].T.contiguous(), patch_mean=mean,
            feature_basis=(directions.flip(1)[:, :32] / values.flip(0)[:32].sqrt()).T.contiguous(),
            feature_mean=f_mean, limits=torch.ones(2),
        )  # fmt: skip
        readings = guard.readings(pictures, features)
        return cls(**{**guard.__dict__, "limits": readings.quantile(0.999, dim=0) * margin})

    def readings(self, pictures: Float[Tensor, "B 3 S S"], features: Float[Tensor, "B D"]) -> Float[Tensor, "B 2"]:
        """The two readings of each picture."""
        patches = F.pixel_unshuffle(pictures, PATCH).flatten(2).transpose(1, 2) - self.patch_mean
        inside = patches @ self.patch_basis.T
        outside = (patches.square().sum(2) - inside.square().sum(2)).clamp(min=0).mean(1)
        contrast = pictures.var(dim=(1, 2, 3))
        distance = ((features - self.feature_mean) @ self.feature_basis.T).square().mean(1).sqrt()
        return torch.stack([(outside / (contrast + 1e-3)).sqrt(), distance], dim=1)

    def check(self, name: str, picture: Float[Tensor, "3 S S"], features: Float[Tensor, " D"], world: str) -> None:
        """Raise OutsideWorldError if a picture is not of this world."""
        reading = self.readings(picture[None], features[None])[0]
        for value, limit, what in zip(
            reading.tolist(), self.limits.tolist(), ("fine detail", "features' distance"), strict=True
        ):
            if value > limit:
                raise OutsideWorldError(
                    f"{name}: expected a picture of the world {world!r}, got something else ({what} {value:.2f}, at most "
                    f"{limit:.2f}). This model knows drawn portraits only, centred in the picture; for photographs of people "
                    "train one on a zoo of faces (docs/real-faces.md)"
                )
