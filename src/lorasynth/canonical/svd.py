"""The singular value decomposition of B·A without ever forming B·A (Section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import ZooError

_TINY = 1e-300


def canonical_factors(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"], *, first_item: int = 0
) -> tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"], Float[Tensor, "N R"]]:
    """Balanced singular factors of each update: ``B A = U S Vh``, then ``B' = U sqrt(S)`` and ``A' = sqrt(S) Vh``.

    The update is (O, I) but has rank R, so all that needs decomposing is an R x R core: with ``B = Q_B R_B`` and
    ``Aᵀ = Q_A R_A``, ``B A = Q_B (R_B R_Aᵀ) Q_Aᵀ``. In float64, since a gauge may be badly conditioned; the cost is linear in
    O + I. The signs are LAPACK's, and so arbitrary: `gauge` fixes them. Never differentiate through this: the gradient of
    singular vectors does not exist where values meet.

    Args:
        A_NRI: lora_A of N adapters.
        B_NOR: lora_B of N adapters.
        first_item: the number of the first one in its zoo, for messages.

    Returns:
        A' and B' in the dtype given, and the singular values in float64, largest first; all zero for a zero update.

    Raises:
        ZooError: an item is not finite.
    """
    if A_NRI.shape[1] == 1 and (fast := _rank_one(A_NRI, B_NOR)):
        return fast
    _require_finite(A_NRI, B_NOR, first_item)
    # Each factor on its own scale, so that 1e-30 times 1e30 is neither lost nor infinite.
    size_A = A_NRI.abs().amax((1, 2), keepdim=True).double().clamp(min=_TINY)
    size_B = B_NOR.abs().amax((1, 2), keepdim=True).double().clamp(min=_TINY)
    Q_A, R_A = torch.linalg.qr((A_NRI / size_A).transpose(1, 2))
    Q_B, R_B = torch.linalg.qr(B_NOR / size_B)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.transpose(1, 2))
    S = S * (size_A * size_B).flatten(1)
    root = S.sqrt()
    A_c = (root[:, :, None] * Vh) @ Q_A.transpose(1, 2)
    B_c = Q_B @ (U * root[:, None, :])
    return A_c.to(A_NRI.dtype), B_c.to(B_NOR.dtype), S


def _rank_one(
    A_NRI: Float[Tensor, "N 1 I"], B_NOR: Float[Tensor, "N O 1"]
) -> tuple[Float[Tensor, "N 1 I"], Float[Tensor, "N O 1"], Float[Tensor, "N 1"]] | None:
    """Rank 1 in closed form: ``S = |a| |b|``; both factors get the length ``sqrt(S)`` and keep their directions.

    At the speed of a copy, as it never leaves the dtype given; None where some size is so extreme that it had to (or not finite).
    """
    norm_A = torch.linalg.vector_norm(A_NRI, dim=(1, 2), keepdim=True, dtype=torch.float64)
    norm_B = torch.linalg.vector_norm(B_NOR, dim=(1, 2), keepdim=True, dtype=torch.float64)
    for norm in (norm_A, norm_B):
        if not ((norm == 0) | ((norm > 1e-15) & (norm < 1e15))).all():
            return None
    root = (norm_A * norm_B).sqrt()
    A_c = A_NRI * (root / norm_A.clamp(min=_TINY)).to(A_NRI.dtype)
    B_c = B_NOR * (root / norm_B.clamp(min=_TINY)).to(B_NOR.dtype)
    return A_c, B_c, (norm_A * norm_B).flatten(1)


def _require_finite(A_NRI: Tensor, B_NOR: Tensor, first_item: int) -> None:
    # A sum is finite only if all its terms are (or, rarely, overflows: then look closely).
    if torch.isfinite(A_NRI.sum()) and torch.isfinite(B_NOR.sum()):
        return
    finite = torch.isfinite(A_NRI).all(dim=(1, 2)) & torch.isfinite(B_NOR).all(dim=(1, 2))
    if not finite.all():
        bad = [first_item + i for i in (~finite).nonzero().flatten().tolist()]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ZooError(
            f"expected finite LoRAs, got NaN or infinity in items {bad[:5]}{more}; leave them out of the zoo"
        )
