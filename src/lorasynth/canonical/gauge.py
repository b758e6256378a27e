"""Choosing one of the infinitely many (B G, G⁻¹ A) that mean the same update, the same way for every item.

Sign and order of singular vectors flip under the smallest noise, and a rule on an item alone ("largest entry positive") destroys
the structure a zoo has. Both gauges here look at a *reference*, one LoRA that belongs to the zoo as a whole.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import ZooError


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
    cross = B_NOR.transpose(1, 2) @ reference_B + A_NRI @ reference_A.T
    U, _, Vh = torch.linalg.svd(cross.double())
    Q = (U @ Vh).to(A_NRI.dtype)
    return Q.transpose(1, 2) @ A_NRI, B_NOR @ Q


def anchor_to(
    A_NRI: Float[Tensor, "N R I"], B_NOR: Float[Tensor, "N O R"], reference_A: Float[Tensor, "R I"]
) -> tuple[Float[Tensor, "N R I"], Float[Tensor, "N O R"]]:
    """The anchored gauge: the lora_A nearest to a reference among all that mean the same update.

    ``A' = G A`` with the G that minimises ``‖G A - A_ref‖``, and ``B' = B G⁻¹``. It depends on the update alone, needs no SVD, and
    where all items share the reference's row space (a zoo trained with one frozen lora_A) it is A' = A_ref, so that B' is
    *linear* in the update: means, differences and mixtures of vectors are those of the updates.

    Raises:
        ZooError: an item's lora_A is (nearly) orthogonal to the reference, so that G cannot be inverted.
    """
    A, B = A_NRI.double(), B_NOR.double()
    gram = A @ A.transpose(1, 2)
    cross = A @ reference_A.double().T  # (N, R, R) = A A_refᵀ
    G = torch.linalg.lstsq(gram, cross).solution.transpose(1, 2)
    condition = torch.linalg.cond(G)
    if not (condition < 1e6).all():
        worst = int(condition.nan_to_num(torch.inf).argmax())
        raise ZooError(
            f"item {worst}: its lora_A does not span the zoo's shared initialisation (condition {condition[worst]:.1e}); "
            "use gauge='procrustes' for a zoo without one shared initialisation"
        )
    return (G @ A).to(A_NRI.dtype), torch.linalg.solve(G, B, left=False).to(B_NOR.dtype)
