"""The singular value decomposition of B·A without ever forming B·A (Section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import ZooError


def canonical_factors(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"]
) -> tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"], Float[Tensor, "N R"]]:
    """Balanced singular factors of each update: ``B A = U S Vh``, then ``B' = U sqrt(S)`` and ``A' = sqrt(S) Vh``.

    The update is (O, I) but has rank R, so all that needs decomposing is an R x R core: with ``B = Q_B R_B`` and
    ``Aᵀ = Q_A R_A``, ``B A = Q_B (R_B R_Aᵀ) Q_Aᵀ``. In float64, since a gauge may be badly conditioned; the cost is linear in
    O + I. The signs are LAPACK's, and so arbitrary: `gauge` fixes them.

    Args:
        A_NRI: lora_A of N adapters.
        B_NOR: lora_B of N adapters.

    Returns:
        A', B' and the singular values, largest first, in the dtype given.

    Raises:
        ZooError: an item is not finite.
    """
    finite = torch.isfinite(A_NRI).all(dim=(1, 2)) & torch.isfinite(B_NOR).all(dim=(1, 2))
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ZooError(f"expected finite LoRAs, got NaN or infinity in items {bad[:5]}; remove them from the zoo")
    dtype = A_NRI.dtype
    # Each factor on its own scale, so that 1e-30 times 1e30 is neither lost nor infinite.
    size_A = A_NRI.abs().amax((1, 2), keepdim=True).double().clamp(min=1e-300)
    size_B = B_NOR.abs().amax((1, 2), keepdim=True).double().clamp(min=1e-300)
    A, B = A_NRI.double() / size_A, B_NOR.double() / size_B
    if A.shape[1] == 1:  # closed form: S = |a| |b|
        norm_A = A.norm(dim=2, keepdim=True)
        norm_B = B.norm(dim=1, keepdim=True)
        Vh, U = A / norm_A.clamp(min=1e-300), B / norm_B.clamp(min=1e-300)
        S = (norm_A * norm_B).flatten(1)
    else:
        Q_B, R_B = torch.linalg.qr(B)
        Q_A, R_A = torch.linalg.qr(A.transpose(1, 2))
        U, S, Vh = torch.linalg.svd(R_B @ R_A.transpose(1, 2))
        U, Vh = Q_B @ U, Vh @ Q_A.transpose(1, 2)
    S = S * (size_A * size_B).flatten(1)
    root = S.sqrt()
    return (root[:, :, None] * Vh).to(dtype), (U * root[:, None, :]).to(dtype), S.to(dtype)
