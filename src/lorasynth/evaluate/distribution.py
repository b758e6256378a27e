"""Generated pictures as a set: how far from real ones (Fréchet distance), and how different from each other."""

import torch
from jaxtyping import Float
from torch import Tensor


def frechet_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> float:
    """``‖μ_x - μ_y‖² + tr(S_x + S_y - 2 (S_x S_y)^½)`` of the Gaussians of two sets of vectors (Heusel et al., NeurIPS 2017).

    Differs from the usual one: the space is a recogniser's, where a person counts and a background hardly does. 0 is the
    same mean and covariance.

    NOTE: few samples bias it upwards, most of all fewer than there are dimensions. Hold it against that of two real sets of the
    same sizes.

    With centred data ``X = Q R / √(N-1)``, the trace of the root is the sum of the singular values of ``R_x R_yᵀ``. No root of a
    matrix is taken, and few samples do no harm to precision.
    """
    x, y = x.double(), y.double()
    total = (x.mean(0) - y.mean(0)).square().sum()
    roots = []
    for part in (x, y):
        centred = (part - part.mean(0)) / (len(part) - 1) ** 0.5
        total += centred.square().sum()
        roots.append(torch.linalg.qr(centred, mode="r").R)
    return float(total - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum())


def picture_spread(pictures: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, " N"]:
    """How different a person's K pictures are: mean over pairs of the root mean square difference of their pixels, in [0, 1].

    A LoRA that knows one picture only draws it whatever is asked. Real photos, or the base model, show what is good.
    """
    i, j = torch.triu_indices(pictures.shape[1], pictures.shape[1], offset=1).unbind()
    return (pictures[:, i] - pictures[:, j]).square().mean((2, 3, 4)).sqrt().mean(1)


def people_spread(embedding: Float[Tensor, "N K D"]) -> float:
    """How different people are from each other: one minus the mean cosine of two people's pictures for the same prompt.

    0 draws the same person for everybody. Real people have about 1.
    """
    n = len(embedding)
    summed = embedding.sum(0).square().sum(1) - embedding.square().sum((0, 2))  # sum over pairs of different people
    return float(1 - (summed / (n * (n - 1))).mean())
