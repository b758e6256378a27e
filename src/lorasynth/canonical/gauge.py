"""Choosing one of the infinitely many (B G, G⁻¹ A) that mean the same update, the same way for every item.

Sign and order of singular vectors flip under the smallest noise, and a rule on an item alone ("largest entry positive") destroys
the structure a zoo has. Both gauges here look at a *reference*, one LoRA that belongs to the zoo as a whole.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import require_finite
from lorasynth.errors import ZooError

MAX_CONDITION = 1e6
"""How obliquely an item's row space may stand to the anchor's: the anchor's size over the least of it that the row space sees.
Above this, float32 vectors lose the update."""


def align_to(
    A_NRI: Float[Tensor, "N R I"],
    B_NOR: Float[Tensor, "N O R"],
    reference_A: Float[Tensor, "R I"],
    reference_B: Float[Tensor, "O R"],
) -> tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"]]:
    """The Procrustes gauge: rotate balanced factors to lie closest to a reference.

    ``B Q, Qᵀ A`` with the orthogonal Q that minimises ``‖B Q - B_ref‖² + ‖Qᵀ A - A_ref‖²``: from the SVD of
    ``Bᵀ B_ref + A A_refᵀ`` (Schönemann, 1966). At rank 1, Q is a sign. Exact on B A for any Q.
    """
    if A_NRI.shape[1] == 1:
        cross_N = A_NRI.flatten(1) @ reference_A.to(A_NRI.dtype).flatten()
        cross_N += B_NOR.flatten(1) @ reference_B.to(B_NOR.dtype).flatten()
        sign = torch.where(cross_N < 0, -1.0, 1.0).to(A_NRI.dtype)[:, None, None]
        return sign * A_NRI, B_NOR * sign
    cross = B_NOR.double().transpose(1, 2) @ reference_B.double() + A_NRI.double() @ reference_A.double().T
    U, _, Vh = torch.linalg.svd(cross)
    # A rotation magnifies no rounding, so that the factors may stay in their own dtype.
    Q = (U @ Vh).to(A_NRI.dtype)
    return Q.transpose(1, 2) @ A_NRI, B_NOR @ Q


def orthonormal_rows(A_RI: Float[Tensor, "R I"]) -> Float[Tensor, "R I"]:
    """The matrix with orthonormal rows that is nearest to one (its polar factor): the same row space, if it has R dimensions."""
    U, _, Vh = torch.linalg.svd(A_RI.double(), full_matrices=False)
    return (U @ Vh).to(A_RI.dtype)


def anchor_to(
    A_NRI: Float[Tensor, "N R I"],
    B_NOR: Float[Tensor, "N O R"],
    reference_A: Float[Tensor, "R I"],
    *,
    items: Sequence[int] | Tensor | None = None,
) -> tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"]]:
    """The anchored gauge: the lora_A nearest to a reference among all that mean the same update.

    ``A' = A_ref P`` with P the projection on the row space of A, and the B' that goes with it: with ``Aᵀ = Q R``,
    ``A' = A_ref Q Qᵀ`` and ``B' = B Rᵀ (A_ref Q)⁻¹``. It depends on the update alone, needs no SVD, and where all items share the
    reference's row space (a zoo trained with one frozen lora_A) it is A' = A_ref, so that B' is *linear* in the update: means,
    differences and mixtures of vectors are those of the updates. A zero update is (A_ref, 0). ``items`` are the items' numbers
    in the zoo, for messages.

    Raises:
        ZooError: an item is not finite, its lora_A has dependent rows, or (nearly) a direction that the reference does not know.
    """
    require_finite(A_NRI, B_NOR, items)
    shared = torch.equal(A_NRI, A_NRI[:1].expand_as(A_NRI))  # then one decomposition serves all items
    A, B, anchor = (A_NRI[:1] if shared else A_NRI).double(), B_NOR.double(), reference_A.double()
    # 1. The row space of A, and the anchor's part in it.
    Q, R = torch.linalg.qr(A.transpose(1, 2))
    goal = anchor @ Q  # (N, R, R), or (1, R, R)
    factor_B = B @ R.transpose(1, 2)
    # 2. Refuse items of another row space. A zero update has every gauge.
    zero = (factor_B == 0).all(dim=(1, 2))
    # Each row against its own length: rows of very different lengths are not dependent.
    dependent = (R.diagonal(dim1=1, dim2=2).abs() <= 1e-12 * A.norm(dim=2)).any(1)
    # Against the anchor's own size: a row space that it does not see at all leaves rounding, which is well conditioned.
    condition = torch.linalg.matrix_norm(anchor, 2) / torch.linalg.svdvals(goal)[:, -1]
    condition = torch.where(dependent, torch.inf, condition)
    condition = condition.expand(len(B))
    bad = ~(condition <= MAX_CONDITION) & ~zero
    if bad.any():
        worst = int(bad.nonzero()[0])
        number = worst if items is None else int(items[worst])
        raise ZooError(
            f"item {number}: its lora_A does not span the zoo's shared initialisation: expected a condition of at most "
            f"{MAX_CONDITION:.0e}, got {condition[worst]:.1e}; use gauge='procrustes' for a zoo without one shared lora_A"
        )
    # 3. The nearest lora_A, and the lora_B that keeps the update.
    identity = torch.eye(len(anchor), dtype=anchor.dtype, device=anchor.device)
    goal = torch.where(zero[:, None, None], identity, goal)
    new_B = torch.linalg.solve(goal, factor_B, left=False)
    new_A = torch.where(zero[:, None, None], anchor, goal @ Q.transpose(1, 2))
    return new_A.to(A_NRI.dtype), new_B.to(B_NOR.dtype)
