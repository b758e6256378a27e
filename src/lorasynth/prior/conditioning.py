"""How a condition acts on a layer of the denoiser: the paper's ADALoRA (Section 3.4) and its rivals, one signature for all.

The paper's ADALoRA is neither PEFT's AdaLoRA (adaptive rank budgets) nor ByteDance's HyperLoRA: it is a linear layer whose weight
gets a low-rank update made from the condition.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import UsageError
from lorasynth.storage.schema import Misfit, text


class AdaLoRALinear(nn.Module):
    """ADALoRA: ``h_out = W h + B(c) A(c) h`` with A(c), B(c) linear in a bottleneck of the condition (Section 3.4).

    A(c) and B(c) are never built. With ``A(c)[r, i] = Σ_e W_A[r, i, e] e_e``, what A(c) does to h is one ordinary matrix product
    followed by a small contraction with e. Likewise B(c). W_B starts at zero, so that the layer starts as W (the authors' code
    does not).
    """

    def __init__(self, in_features: int, out_features: int, condition_dim: int, rank: int = 8, bottleneck: int = 32):
        super().__init__()
        self.rank, self.bottleneck = rank, bottleneck
        self.linear = nn.Linear(in_features, out_features)
        self.squeeze = nn.Sequential(nn.Linear(condition_dim, bottleneck), nn.SiLU())
        # NOTE: not torch.randn, which `without_numbers` could not leave out.
        W_A = torch.empty(rank * bottleneck, in_features).normal_()
        self.W_A = nn.Parameter(W_A / (in_features * bottleneck) ** 0.5)
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


class LoRAMixtureLinear(nn.Module):
    """A mixture of LoRAs: ``h_out = W h + Σ_i ω_i(c) B_i A_i h``, ω an MLP (conditional LoRA, arXiv 2405.03958).

    Where ADALoRA makes the factors themselves from the condition, here they are learned once and the condition only weighs them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        condition_dim: int,
        rank: int = 4,
        num_loras: int = 16,
        hidden: int = 64,
    ):
        super().__init__()
        self.rank = rank
        self.linear = nn.Linear(in_features, out_features)
        self.weights = nn.Sequential(nn.Linear(condition_dim, hidden), nn.SiLU(), nn.Linear(hidden, num_loras))
        self.A = nn.Linear(in_features, num_loras * rank, bias=False)
        self.B = nn.Linear(num_loras * rank, out_features, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, h: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B O"]:
        """Apply the conditioned layer."""
        # All A_i side by side and all B_i on top of each other: ω_i scales the part in between.
        omega_BK = self.weights(c)
        return self.linear(h) + self.B(self.A(h) * omega_BK.repeat_interleave(self.rank, dim=1))


class _ConditionedLayersBlock(nn.Module):
    """A residual MLP block whose two layers take the condition."""

    def __init__(self, width: int, up: nn.Module, down: nn.Module, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = up, down
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        x = self.dropout(F.silu(self.up(self.norm(h), c)))
        return h + self.down(x, c)


class AdaLoRABlock(_ConditionedLayersBlock):
    """A residual MLP block whose two layers are ADALoRA."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0, rank: int = 8, bottleneck: int = 32):
        up, down = (AdaLoRALinear(width, width, condition_dim, rank, bottleneck) for _ in range(2))
        super().__init__(width, up, down, dropout)


class LoRAMixtureBlock(_ConditionedLayersBlock):
    """A residual MLP block whose two layers are mixtures of LoRAs."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        up, down = (LoRAMixtureLinear(width, width, condition_dim) for _ in range(2))
        super().__init__(width, up, down, dropout)


class AdaNormBlock(nn.Module):
    """A residual MLP block with AdaNorm: the condition scales and shifts the normalised input (Perez et al., AAAI 2018)."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero_linear(condition_dim, 2 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        scale, shift = self.modulation(c).chunk(2, dim=1)
        x = self.norm(h) * (1 + scale) + shift
        return h + self.down(self.dropout(F.silu(self.up(x))))


class AdaLNZeroBlock(nn.Module):
    """AdaNorm with a gate on the block's output that the condition opens, from zero (adaLN-Zero, Peebles & Xie, ICCV 2023)."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero_linear(condition_dim, 3 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        scale, shift, gate = self.modulation(c).chunk(3, dim=1)
        x = self.norm(h) * (1 + scale) + shift
        return h + gate * self.down(self.dropout(F.silu(self.up(x))))


class FiLMBlock(nn.Module):
    """A residual MLP block whose hidden features the condition scales and shifts (FiLM, Perez et al., AAAI 2018)."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = _zero_linear(condition_dim, 2 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        gamma, beta = self.modulation(c).chunk(2, dim=1)
        x = self.up(self.norm(h)) * (1 + gamma) + beta
        return h + self.down(self.dropout(F.silu(x)))


class ConcatBlock(nn.Module):
    """A residual MLP block on the input and the condition side by side: ``W [h; c] = W_h h + W_c c``, W_c zero at the start."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.from_condition = _zero_linear(condition_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        x = self.up(self.norm(h)) + self.from_condition(c)
        return h + self.down(self.dropout(F.silu(x)))


class CrossAttentionBlock(nn.Module):
    """Attention of the input to tokens made from the condition, then a residual MLP (as Rombach et al., CVPR 2022, condition)."""

    def __init__(self, width: int, condition_dim: int, dropout: float = 0.0, tokens: int = 8, token_dim: int = 32):
        super().__init__()
        self.to_tokens = nn.Sequential(
            nn.Linear(condition_dim, tokens * token_dim), nn.Unflatten(1, (tokens, token_dim))
        )
        self.norm_attention, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 1, kdim=token_dim, vdim=token_dim, batch_first=True)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, h: Float[Tensor, "B W"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
        """One block."""
        tokens_BTD = self.to_tokens(c)
        query = self.norm_attention(h)[:, None]
        h = h + self.attention(query, tokens_BTD, tokens_BTD, need_weights=False)[0][:, 0]
        return h + self.down(self.dropout(F.silu(self.up(self.norm(h)))))


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that says zero before training."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


CONDITIONING: dict[str, Callable[..., nn.Module]] = {
    "adalora": AdaLoRABlock, "adanorm": AdaNormBlock, "adaln_zero": AdaLNZeroBlock, "film": FiLMBlock, "concat": ConcatBlock,
    "cross_attention": CrossAttentionBlock, "lora_mixture": LoRAMixtureBlock,
}  # fmt: skip
"""Name -> block class, called with (width, condition_dim, dropout=...)."""
_ADALORA_OF_RANK = r"adalora-r([1-9][0-9]{0,2})"


def conditioning(value: Any, place: str) -> str:
    """The type of a conditioning's name. See `lorasynth.storage.schema`.

    Raises:
        Misfit: there is no block of that name.
    """
    if value in CONDITIONING or re.fullmatch(_ADALORA_OF_RANK, text(40)(value, place)):
        return str(value)
    raise Misfit(place, f"{', '.join(CONDITIONING)} or adalora-rRANK", value)


def block_of(name: str) -> Callable[..., nn.Module]:
    """The block of that name; "adalora-r16" is ADALoRA of rank 16.

    Raises:
        UsageError: there is none.
    """
    if rank := re.fullmatch(_ADALORA_OF_RANK, name):
        return partial(AdaLoRABlock, rank=int(rank[1]))
    if name not in CONDITIONING:
        raise UsageError(f"expected a conditioning among {sorted(CONDITIONING)} or adalora-rRANK, got {name!r}")
    return CONDITIONING[name]
