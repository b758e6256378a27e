"""The recognisers of a drawn world: picture or latent in, unit embedding out.

`ArcFaceNet` is the world's encoder (what the synthesizer is conditioned on). `AppearanceNet` is what a world may have beside it
(`Joined`): a recogniser need not see more than tells people apart. `PatchTransformer` is the second opinion, of another
architecture, trained by another loss on other people, and used for scoring only. `LatentNet` is the critic that a prior is
trained against (`lorasynth.refining`). It looks at the base model's latents, has learned from yet other people, and scores
nothing that is reported. So nothing is ever trained against the two that score.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PICTURE_SIZE = 64
"""Pixels a side that both recognisers look at; other sizes are resampled."""


def _prepare(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
    """Pictures in [0, 1] of any size -> the recognisers' size, in [-1, 1]."""
    if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
        pictures = F.interpolate(pictures, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
    return pictures * 2 - 1


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. ``stride`` 2 halves the picture."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + self.shortcut(x))


class ArcFaceNet(nn.Module):
    """A small residual network on a pixel-unshuffled picture, for the ArcFace loss (Deng et al., CVPR 2019)."""

    def __init__(self, width: int = 48, embedding_dim: int = 512):
        super().__init__()
        self.stem = nn.Conv2d(48, width, 3, 1, 1)
        self.blocks = nn.Sequential(
            _ResidualBlock(width, width),
            _ResidualBlock(width, 2 * width, stride=2),
            _ResidualBlock(2 * width, 2 * width),
            _ResidualBlock(2 * width, 3 * width, stride=2),
        )
        self.embedding_dim = embedding_dim
        self.head = nn.Linear(3 * width * 16, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)

    def features(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embeddings before normalisation."""
        h = self.blocks(F.silu(self.stem(F.pixel_unshuffle(_prepare(pictures), 4))))
        return self.norm(self.head(h.flatten(1)))

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Pictures in [0, 1] -> unit embeddings."""
        return F.normalize(self.features(pictures), dim=1)


class PatchTransformer(nn.Module):
    """A small vision transformer on 8x8 patches (Dosovitskiy et al., ICLR 2021), mean-pooled."""

    def __init__(self, width: int = 128, depth: int = 4, num_heads: int = 4, embedding_dim: int = 256):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.position = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(64 * 16, embedding_dim)
        self.squeeze = nn.Linear(width, 16)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Pictures in [0, 1] -> unit embeddings."""
        h = self.patch(_prepare(pictures)).flatten(2).transpose(1, 2) + self.position
        return F.normalize(self.head(self.squeeze(self.layers(h)).flatten(1)), dim=1)


class LatentNet(nn.Module):
    """A small residual network on the base model's latents, for the ArcFace loss.

    What the base predicts are latents: looked at like this they need no decoder, which costs more than the base itself.
    Latents of any size (``size`` a side) are halved until they are 4 a side.
    """

    def __init__(self, channels: int = 16, width: int = 96, embedding_dim: int = 512, size: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1)
        self.blocks = nn.Sequential(
            _ResidualBlock(width, width),
            _ResidualBlock(width, 2 * width, stride=2),
            _ResidualBlock(2 * width, 2 * width, stride=1 if size <= 8 else 2),
            *(_ResidualBlock(2 * width, 2 * width, stride=2) for _ in range(int(math.log2(max(16, size) / 16)))),
        )
        self.head = nn.Linear(2 * width * 16, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        """Latents, scaled as the base's -> unit embeddings."""
        return F.normalize(self.norm(self.head(self._grid(latents).flatten(1))), dim=1)

    def _grid(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B width 4 4"]:
        h = self.blocks(F.silu(self.stem(latents)))
        return h if h.shape[-2:] == (4, 4) else F.adaptive_avg_pool2d(h, 4)


class AppearanceNet(nn.Module):
    """What a person looks like, lips and eyes too: a residual network on the picture VAE's own patches of a photo.

    The VAE's encoder is affine in each patch of the picture. So it is one convolution here, and photos are embedded without it.
    """

    def __init__(self, patch: int = 16, channels: int = 32, width: int = 64, embedding_dim: int = 512):
        super().__init__()
        self.patches = nn.Conv2d(3, channels, patch, patch)
        self.net = LatentNet(channels, width, embedding_dim)
        self.size, self.embedding_dim = 8 * patch, embedding_dim

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Pictures in [0, 1] of any size -> unit embeddings."""
        if pictures.shape[-2:] != (self.size, self.size):
            pictures = F.interpolate(pictures, (self.size, self.size), mode="bilinear", antialias=True)
        return self.net(self.patches(pictures))


class Joined(nn.Module):
    """Embeddings of several networks, side by side, of equal norms."""

    def __init__(self, *nets: ArcFaceNet | AppearanceNet):
        super().__init__()
        self.nets, self.embedding_dim = nn.ModuleList(nets), sum(net.embedding_dim for net in nets)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Pictures in [0, 1] -> unit embeddings."""
        return F.normalize(torch.cat([net(pictures) for net in self.nets], 1), dim=1)
