"""Inner products of weight updates from their factors, in float64, without forming an update or a copy of all factors."""

import torch
from jaxtyping import Float
from torch import Tensor

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module name -> (lora_A (R, I), lora_B (O, R))."""

_NUMBERS = 2**19  # of one factor at a time, in float64: some MB, even where a rank is a layer's width


def update_inner(
    A_NRI: Float[Tensor, "N R I"],
    B_NOR: Float[Tensor, "N O R"],
    C_NSI: Float[Tensor, "N S I"],
    D_NOS: Float[Tensor, "N O S"],
) -> Float[Tensor, " N"]:
    """Frobenius inner products ``<B A, D C> = sum((Bᵀ D) * (A Cᵀ))`` of N pairs of updates, in float64, some ranks at a time."""
    step = _ranks_at_a_time(A_NRI, B_NOR)
    total_N = torch.zeros(len(A_NRI), dtype=torch.float64, device=A_NRI.device)
    for A, B in zip(A_NRI.split(step, 1), B_NOR.split(step, 2), strict=True):
        A, B = A.double(), B.double()
        for C, D in zip(C_NSI.split(step, 1), D_NOS.split(step, 2), strict=True):
            total_N += ((B.mT @ D.double()) * (A @ C.double().mT)).sum((1, 2))
    return total_N


def _ranks_at_a_time(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> int:
    return max(64, _NUMBERS // (len(A_NRI) * max(A_NRI.shape[2], B_NOR.shape[1])))
