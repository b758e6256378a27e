"""Right singular vectors of a matrix that comes some rows at a time."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


class Scatter:
    """What the right singular vectors of N rows of F numbers follow from: the rows, or ``xᵀ x``, whichever is smaller."""

    def __init__(self, n: int, f: int):
        self._table = torch.zeros(min(n, f), f)
        self._by_rows, self._seen = n < f, 0

    def add(self, rows: Float[Tensor, "n F"]) -> None:
        """Take in some of the N rows."""
        if self._by_rows:
            self._table[self._seen : self._seen + len(rows)] = rows
            self._seen += len(rows)
        else:
            self._table.addmm_(rows.T, rows)

    def singular(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k F"]]:
        """Squared singular values, falling, and right singular vectors. K is the smaller of N and F."""
        # 1. Singular vectors of the smaller side, in float64.
        gram = self._table @ self._table.T if self._by_rows else self._table
        values, vectors = torch.linalg.eigh(gram.double())
        values, vectors = values.flip(0).clamp(min=0).float(), vectors.flip(1).float()
        # 2. From left to right singular vectors: V = Xᵀ U / S.
        if self._by_rows:
            scale = values.sqrt().clamp(min=1e-6 * float(values[0].sqrt()) + 1e-30)
            vectors = self._table.T @ vectors / scale
        # NOTE: with the last, tiny values the quotient is no longer orthogonal to the rest; QR makes it so and changes no other.
        directions, triangle = torch.linalg.qr(vectors)
        return values, (directions * triangle.diagonal().sign()).T.contiguous()


def singular(parts: Iterable[Float[Tensor, "n F"]], n: int, f: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "k F"]]:
    """`Scatter.singular` of N rows of F numbers, in parts."""
    scatter = Scatter(n, f)
    for part in parts:
        scatter.add(part)
    return scatter.singular()
