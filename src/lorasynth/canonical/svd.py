"""The singular value decomposition of B·A without ever forming B·A (Section 3.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lorasynth.errors import ZooError

_TINY = 1e-300
_MAX_LOSS = 16
"""The most by which a change of gauge may magnify float32's rounding (6e-8) in the update: 16 keeps it below 1e-6. More, and the
factors are multiplied in float64."""
_MAX_LOSS_OF_ONE_DIRECTION = 1e4
"""The same of any one singular direction, of which a Gram matrix in float64 keeps 1e-16 times the square."""

Balanced = tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"], Float[Tensor, "N R"]]
"""A', B' and the singular values, largest first."""
Reduced = tuple[Float[Tensor, "N K I"], Float[Tensor, "N O K"], Float[Tensor, "N K"]]
"""The same with ``K = min(R, I, O)`` directions: an update has no more."""


def canonical_factors(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"], *, items: Sequence[int] | Tensor | None = None
) -> Balanced:
    """Balanced singular factors of each update: ``B A = U S Vh``, then ``B' = U sqrt(S)`` and ``A' = sqrt(S) Vh``.

    The update is (O, I) but has rank R, so all that needs decomposing is R x R: a closed form at rank 1, Gram matrices above, and
    QR, which loses nothing to a badly conditioned gauge, for float64 and for each item that the fast way reports it would not be
    exact on. The cost is linear in O + I. The signs are LAPACK's, and so arbitrary: `gauge` fixes them. Never differentiate
    through this: the gradient of singular vectors does not exist where values meet.

    Args:
        A_NRI: lora_A of N adapters.
        B_NOR: lora_B of N adapters.
        items: their numbers in the zoo, for messages; by default 0 … N - 1.

    Returns:
        A' and B' in the dtype given, and the singular values in float64, largest first; all zero for a zero update.

    Raises:
        ZooError: an item is not finite.
    """
    if A_NRI.shape[1] == 1:
        (A_c, B_c, S), exact = by_closed_form(A_NRI, B_NOR)
    elif A_NRI.dtype != torch.float64:
        (A_c, B_c, S), exact = by_gram(A_NRI, B_NOR)
    else:
        require_finite(A_NRI, B_NOR, items)
        return by_qr(A_NRI, B_NOR)
    if not exact.all():
        require_finite(A_NRI, B_NOR, items)
        A_c[~exact], B_c[~exact], S[~exact] = by_qr(A_NRI[~exact], B_NOR[~exact])
    return A_c, B_c, S


def by_closed_form(A_NRI: Float[Tensor, "N 1 I"], B_NOR: Float[Tensor, "N O 1"]) -> tuple[Balanced, Bool[Tensor, " N"]]:
    """Rank 1: ``S = |a| |b|``. Both factors get the length ``sqrt(S)`` and keep their directions.

    Returns:
        The factors, and for which items they are exact: not where a size is zero, extreme or not finite.
    """
    dtype = torch.promote_types(A_NRI.dtype, torch.float32)
    norm_A, norm_B = (
        torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=dtype).double() for x in (A_NRI, B_NOR)
    )
    ratio = (norm_B / norm_A).sqrt()
    exact = _moderate(norm_A) & _moderate(norm_B)
    return (A_NRI * ratio.to(A_NRI.dtype), B_NOR / ratio.to(B_NOR.dtype), (norm_A * norm_B).flatten(1)), exact.flatten()


def by_gram(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> tuple[Balanced, Bool[Tensor, " N"]]:
    """Small ranks: ``A' = M A`` and ``B' = B M⁻¹``, so that the update is kept whatever M. M from the factors' Gram matrices.

    With ``A Aᵀ = L Lᵀ`` (Cholesky) and ``Lᵀ (BᵀB) L = V S² Vᵀ`` (eigh), ``M = sqrt(S) Vᵀ L⁻¹`` and ``M⁻¹ = L V / sqrt(S)``. These
    are in float64. The factors are multiplied in their own dtype, or, where M would magnify its rounding, in float64.

    Returns:
        The factors, and for which items they are exact: ``|M_j| |A| / |A'_j|`` is how much M magnifies the rounding of direction
        j, and likewise for B.
    """
    dtype = torch.promote_types(A_NRI.dtype, torch.float32)
    A, B = A_NRI.double(), B_NOR.double()
    # 1. Gram matrices, R x R, in float64.
    AA_NRR, BB_NRR = A @ A.transpose(1, 2), B.transpose(1, 2) @ B
    size2_A, size2_B = (G.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) for G in (AA_NRR, BB_NRR))
    # 2. The core Lᵀ (BᵀB) L, whose eigenvalues are the squared singular values of B A.
    L, failed = torch.linalg.cholesky_ex(AA_NRR)
    exact = (failed == 0) & (_moderate(size2_A.sqrt()) & _moderate(size2_B.sqrt())).flatten()
    core = torch.where(exact[:, None, None], L.transpose(1, 2) @ BB_NRR @ L, 0)
    S2, V = (x.flip(-1) for x in torch.linalg.eigh(core))  # largest first
    S = S2.sqrt()
    root = S.sqrt()[:, None, :]
    # 3. The change of gauge M that balances the factors, and its inverse.
    M_inverse = L @ V / root
    M = torch.linalg.solve_triangular(L.transpose(1, 2), V * root, upper=True).transpose(1, 2)
    # 4. Where M would magnify rounding too much: those items go to QR.
    loss2 = (M.square().sum(2) * size2_A + M_inverse.square().sum(1) * size2_B) / S
    exact &= (loss2 <= _MAX_LOSS_OF_ONE_DIRECTION**2).all(1)
    # 5. Apply it, in the factors' own dtype where that loses nothing.
    A_c, B_c = M.to(dtype) @ A_NRI.to(dtype), B_NOR.to(dtype) @ M_inverse.to(dtype)
    loose = exact & ((S2 * loss2).sum(1) > _MAX_LOSS**2 * S2.sum(1))
    if loose.any():  # there float32's rounding would show
        A_c[loose], B_c[loose] = (M[loose] @ A[loose]).to(dtype), (B[loose] @ M_inverse[loose]).to(dtype)
    return (A_c.to(A_NRI.dtype), B_c.to(B_NOR.dtype), S), exact


def by_qr(A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]) -> Reduced:
    """Any factors: with ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A``, ``B A = Q_B (R_B R_Aᵀ) Q_Aᵀ``, whose core is K x K. In float64."""
    # Each factor on its own scale, so that 1e-30 times 1e30 is neither lost nor infinite.
    size_A = A_NRI.abs().amax((1, 2), keepdim=True).double().clamp(min=_TINY)
    size_B = B_NOR.abs().amax((1, 2), keepdim=True).double().clamp(min=_TINY)
    # 1. Orthonormal bases of both factors.
    Q_A, R_A = torch.linalg.qr((A_NRI / size_A).transpose(1, 2))
    Q_B, R_B = torch.linalg.qr(B_NOR / size_B)
    # 2. The singular values are those of the K x K core.
    U, S, Vh = torch.linalg.svd(R_B @ R_A.transpose(1, 2), full_matrices=False)
    S = S * (size_A * size_B).flatten(1)
    # 3. Share them equally between the factors.
    root = S.sqrt()
    A_c = (root[:, :, None] * Vh) @ Q_A.transpose(1, 2)
    B_c = Q_B @ (U * root[:, None, :])
    return A_c.to(A_NRI.dtype), B_c.to(B_NOR.dtype), S


def _moderate(norm: Tensor) -> Tensor:
    """Sizes of which float32 holds the square and the inverse."""
    return (norm > 1e-15) & (norm < 1e15)


def require_finite(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"], items: Sequence[int] | Tensor | None = None
) -> None:
    """Refuse factors with NaN or infinity. Arguments as of `canonical_factors`.

    Raises:
        ZooError: an item is not finite.
    """
    # A sum is finite only if all its terms are (or, rarely, overflows: then look closely).
    if torch.isfinite(A_NRI.sum()) and torch.isfinite(B_NOR.sum()):
        return
    finite = torch.isfinite(A_NRI).all(dim=(1, 2)) & torch.isfinite(B_NOR).all(dim=(1, 2))
    if not finite.all():
        bad = [int(items[i]) if items is not None else i for i in (~finite).nonzero().flatten().tolist()]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ZooError(
            f"expected finite LoRAs, got NaN or infinity in items {bad[:5]}{more}; leave them out of the zoo"
        )
