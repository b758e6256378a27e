"""Reads a person's features off a picture by a convolutional network. No recogniser has a part in it."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import ModelError
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.storage.weights import large_tables, pack, unpack
from lorasynth.worlds.domain import Domain

PICTURE_SIZE = 128
"""Pixels a side that a reader looks at; other sizes are resampled."""
_GROUPS = 8


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. ``stride`` 2 halves the picture."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.norm1 = nn.GroupNorm(_GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.norm2 = nn.GroupNorm(_GROUPS, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + self.shortcut(x))


class ReaderNet(nn.Module):
    """A small residual network on a pixel-unshuffled picture: values of features, and a logit for each detail.

    Group norms, not batch norms, so that all that is learned is in its parameters.
    """

    def __init__(self, num_features: int, num_details: int, width: int = 32):
        super().__init__()
        self.num_features = num_features
        self.stem = nn.Conv2d(48, width, 3, 1, 1)
        self.blocks = nn.Sequential(
            _ResidualBlock(width, width),
            _ResidualBlock(width, 2 * width, stride=2),
            _ResidualBlock(2 * width, 2 * width),
            _ResidualBlock(2 * width, 3 * width, stride=2),
            _ResidualBlock(3 * width, 3 * width),
        )
        self.squeeze = nn.Conv2d(3 * width, width, 1)
        self.hidden = nn.Linear(64 * width, 8 * width)
        self.head = nn.Linear(8 * width, num_features + num_details)

    def forward(
        self, pictures: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B features"], Float[Tensor, "B details"]]:
        """Pictures in [0, 1] of any size -> standardised features, logits of details."""
        if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
            pictures = F.interpolate(pictures, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
        h = self.blocks(F.silu(self.stem(F.pixel_unshuffle(pictures * 2 - 1, 4))))
        h = F.silu(self.squeeze(h)).flatten(1)
        found = self.head(F.silu(self.hidden(h))).float()
        return found[:, : self.num_features], found[:, self.num_features :]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A trained network and the world whose features it reads."""

    domain: Domain
    net: ReaderNet
    kind = "convolutional"

    @cached_property
    def _scale(self) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
        """Mean and standard deviation of each feature among people on whom it is visible."""
        return self.domain.features.spread(len(self.domain.identity))

    @torch.no_grad()
    def read(
        self, pictures: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B features"], Float[Tensor, "B details"]]:
        """Values of the features, columns as in ``domain.features.names``, and the chance that each detail is there."""
        parts = [self.net(chunk) for chunk in pictures.split(64)]
        mean, deviation = self._scale
        values = torch.cat([values for values, _ in parts]) * deviation + mean
        return values, torch.cat([logits for _, logits in parts]).sigmoid()

    def explained(self, pictures: Float[Tensor, "N K 3 H W"], persons: list[int]) -> Float[Tensor, "N features"]:
        """One minus the squared error of each feature over its variance, mean over a person's K pictures.

        The mean over people and features is the part of what tells people apart that pictures show: 1 is all of it, 0 the mean
        person drawn for everybody. NaN where a feature is not visible on the person. Good is what real photos have.
        """
        found = self.read(pictures.flatten(0, 1))[0].unflatten(0, pictures.shape[:2])
        true, visible = self.domain.features.of(self.domain.identity_factors(persons))
        error = (found - true[:, None]).square().mean(1) / self._scale[1].square()
        return (1 - error).masked_fill(~visible, torch.nan)

    def by_name(self, explained: Float[Tensor, "N features"]) -> dict[str, float]:
        """Mean of each feature over the people on whom it is visible. Those that nobody shows are left out."""
        means = zip(self.domain.features.names, explained.nanmean(0).tolist(), strict=True)
        return {name: mean for name, mean in means if not math.isnan(mean)}

    def details_right(
        self, pictures: Float[Tensor, "N K 3 H W"], persons: list[int]
    ) -> dict[str, dict[str, Float[Tensor, " people"]]]:
        """Whether pictures show a small detail of people who have it, and lack it of people who do not.

        People with a faint trace of a detail are left out of it. The probe's own errors are those on real photos. At most 3 % of
        them is good.

        Returns:
            By detail, "present" and "absent": the part of right pictures of each such person.
        """
        shown = (self.read(pictures.flatten(0, 1))[1] > 0.5).unflatten(0, pictures.shape[:2])
        features = self.domain.features
        there, sure = features.presence(*features.of(self.domain.identity_factors(persons)))
        right = (shown == there[:, None]).float().mean(1)
        return {
            name: {"present": right[sure[:, i] & there[:, i], i], "absent": right[sure[:, i] & ~there[:, i], i]}
            for i, name in enumerate(features.details)
        }

    def save(self, path: Path) -> None:
        """Weights in fp16, large tables in bytes."""
        state = self.net.state_dict()
        write_tensors(path, pack(state, large_tables(state)))

    @classmethod
    def load(cls, domain: Domain, path: Path) -> "Reader":
        """A reader of a world with the weights of a file, frozen.

        Raises:
            ModelError: the file is missing or of another network.
        """
        tensors, _ = read_tensors(path)
        state = unpack(tensors)
        try:
            width = len(state["stem.weight"])
            net = ReaderNet(len(domain.features.names), len(domain.features.details), width)
            net.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"{path}: expected the weights of a reader of {domain.name!r}: {error}") from None
        return cls(domain=domain, net=net.eval().requires_grad_(False))
