"""How a condition acts on a layer of the denoiser: the paper's ADALoRA (Section 3.4) and its rivals, one signature for all.

The paper's ADALoRA is neither PEFT's AdaLoRA (adaptive rank budgets) nor ByteDance's HyperLoRA: it is a linear layer whose weight
gets a low-rank update made from the condition.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class AdaLoRALinear(nn.Module):
    """ADALoRA: ``h_out = W h + B(c) A(c) h`` with A(c), B(c) linear in a bottleneck of the condition (Section 3.4).

    A(c) and B(c) are never built. With ``A(c)[r, i] = Σ_e W_A[r, i, e] e_e``, what A(c) does to h is one ordinary matrix product
    followed by a small contraction with e; likewise B(c). W_B starts at zero, so that the layer starts as W (the authors' code
    does not).
    """

    def __init__(self, in_features: int, out_features: int, condition_dim: int, rank: int = 8, bottleneck: int = 32):
        super().__init__()
        self.rank, self.bottleneck = rank, bottleneck
        self.linear = nn.Linear(in_features, out_features)
        self.squeeze = nn.Sequential(nn.Linear(condition_dim, bottleneck), nn.SiLU())
        self.W_A = nn.Parameter(torch.randn(rank * bottleneck, in_features) / (in_features * bottleneck) ** 0.5)
        self.W_B = nn.Parameter(torch.zeros(out_features, rank * bottleneck))

    def forward(self, h: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B O"]:
        """Apply the conditioned layer."""
        e_BE = self.squeeze(c)
        # A(c) h: contract the input first, then the bottleneck.
        u_BR = (F.linear(h, self.W_A).unflatten(1, (self.rank, self.bottleneck)) * e_BE[:, None]).sum(2)
        # B(c) u: an outer product with the bottleneck, then the output.
        return self.linear(h) + F.linear((u_BR[:, :, None] * e_BE[:, None, :]).flatten(1), self.W_B)

    def reference_forward(self, h: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B O"]:
        """The same by the definition, building A(c) and B(c) for every sample: for tests and benchmarks."""
        e_BE = self.squeeze(c)
        W_A = self.W_A.unflatten(0, (self.rank, self.bottleneck))
        W_B = self.W_B.unflatten(1, (self.rank, self.bottleneck))
        A_BRI = torch.einsum("rei,be->bri", W_A, e_BE)
        B_BOR = torch.einsum("ore,be->bor", W_B, e_BE)
        return self.linear(h) + torch.einsum("bor,br->bo", B_BOR, torch.einsum("bri,bi->br", A_BRI, h))


class AdaLoRABlock(nn.Module):
    """A residual MLP block whose two layers are ADALoRA."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0, rank: int = 8, bottleneck: int = 32):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = AdaLoRALinear(width, width, condition_dim, rank, bottleneck)
        self.down = AdaLoRALinear(width, width, condition_dim, rank, bottleneck)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        x = self.dropout(F.silu(self.up(self.norm(h), c)))
        return h + self.down(x, c)


class AdaNormBlock(nn.Module):
    """A residual MLP block with AdaNorm: the condition scales and shifts the normalised input (Perez et al., AAAI 2018)."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition_dim, 2 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        scale, shift = self.modulation(c).chunk(2, dim=1)
        x = self.norm(h) * (1 + scale) + shift
        return h + self.down(self.dropout(F.silu(self.up(x))))


CONDITIONING: dict[str, Callable[..., nn.Module]] = {"adalora": AdaLoRABlock, "adanorm": AdaNormBlock}
"""Name -> block class, called with (width, condition_dim, dropout=...)."""
