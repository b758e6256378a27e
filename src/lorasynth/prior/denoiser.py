"""The denoiser of the prior: a residual MLP on a latent, told the noise level and a photo's embedding."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lorasynth.prior.conditioning import block_of


def timestep_features(t: Int[Tensor, " B"], dim: int = 64) -> Float[Tensor, "B dim"]:
    """Sinusoidal features of diffusion timesteps (Ho et al., NeurIPS 2020)."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2))
    angle = t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Denoiser(nn.Module):
    """(z_t, t, embedding) -> v, or what else the prior predicts.

    Residual MLP blocks whose conditioning is chosen by name. An unconditional row uses a learned "no embedding" instead.
    """

    def __init__(
        self,
        latent_dim: int,
        embedding_dim: int = 512,
        width: int = 384,
        depth: int = 3,
        conditioning: str = "adalora",
        dropout: float = 0.1,
    ):
        super().__init__()
        block = block_of(conditioning)
        self.latent_dim, self.conditioning, self.embedding_dim = latent_dim, conditioning, embedding_dim
        self.time = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.nobody = nn.Parameter(torch.zeros(embedding_dim))
        condition_dim = embedding_dim + 64
        self.enter = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(block(width, condition_dim, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        z_t: Float[Tensor, "B Z"],
        t: Int[Tensor, " B"],
        embedding: Float[Tensor, "B D"],
        dropped: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        """Predict. Rows where ``dropped`` are unconditional."""
        e = embedding * self.embedding_dim**0.5  # a unit vector's entries, brought to unit size
        if dropped is not None:
            e = torch.where(dropped[:, None], self.nobody, e)
        c = torch.cat([e, self.time(timestep_features(t))], dim=1)
        h = self.enter(z_t)
        for block in self.blocks:
            h = block(h, c)
        return self.leave(F.silu(self.norm(h)))
