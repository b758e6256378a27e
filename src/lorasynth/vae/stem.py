"""The directions that the weight VAE looks along: orthonormal, far fewer than a LoRA has numbers, cheap to store."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import ZooError
from lorasynth.storage.rows import Rows, chunks
from lorasynth.vae.singular import Scatter, singular


class Stem(nn.Module):
    """K orthonormal directions in two steps: within each module, then across modules.

    ``x (B, F) → F_m numbers of module m times k_m local directions → all of them, M = Σ k_m → c (B, K)``. A product of matrices
    with orthonormal rows, so errors in c are errors in x. K directions of F numbers each would need K·F numbers. Local ones
    need Σ k_m·F_m and hold far more of a LoRA in as many (dev/LOG.md).
    """

    def __init__(self, local: Sequence[Float[Tensor, "k Fm"]], across: Float[Tensor, "K M"]):
        """Put the two steps together.

        Args:
            local: orthonormal directions of each module, in the order of a canonical vector's numbers.
            across: orthonormal directions over all local coordinates.
        """
        super().__init__()
        if across.shape[1] != sum(len(table) for table in local):
            raise ValueError(
                f"{sum(len(t) for t in local)} local directions for {across.shape[1]} columns across modules"
            )
        self.local = nn.ParameterList(nn.Parameter(table, requires_grad=False) for table in local)
        self.across = nn.Parameter(across, requires_grad=False)

    @property
    def num_components(self) -> int:
        """K."""
        return self.across.shape[0]

    @property
    def num_features(self) -> int:
        """F."""
        return sum(table.shape[1] for table in self.local)

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """Canonical vectors -> coefficients."""
        return _within(x, list(self.local)) @ self.across.T

    def lift(self, c: Float[Tensor, "B K"]) -> Float[Tensor, "B F"]:
        """Coefficients -> canonical vectors: the transpose of `forward`, and its inverse within the span."""
        parts = (c @ self.across).split([len(table) for table in self.local], dim=1)
        return torch.cat([part @ table for part, table in zip(parts, self.local, strict=True)], dim=1)

    @torch.no_grad()
    def orthonormalize(self) -> Float[Tensor, "K K"]:
        """Make directions that were trained orthonormal again, in place, within the span they have now.

        Returns:
            M, with which ``lift_before(c) = lift_after(c @ M)`` and ``forward_before(x) = forward_after(x) @ M.T``.
        """
        columns = self.across.split([len(table) for table in self.local], dim=1)
        turned = []
        for table, part in zip(self.local, columns, strict=True):
            directions, triangle = torch.linalg.qr(table.T)
            table.copy_(directions.T)
            turned.append(part @ triangle.T)
        directions, triangle = torch.linalg.qr(torch.cat(turned, dim=1).T)
        self.across.copy_(directions.T)
        return triangle.T

    def rotated(self, rotation: Float[Tensor, "K K"]) -> "Stem":
        """The stem whose coefficients are ``rotation @ c``: other directions in the same span."""
        return Stem(list(self.local), rotation @ self.across)


def principal_stem(x: Float[Tensor, "N F"] | Rows, num: int, blocks: Sequence[int], local_numbers: int) -> Stem:
    """The directions along which LoRAs vary most (principal component analysis).

    Two passes over the zoo. The memory is ``Σ min(N, F_m) F_m`` numbers.

    Args:
        x: canonical vectors, of mean zero.
        num: K.
        blocks: F_m, how many of their numbers are of each module.
        local_numbers: how many numbers the local directions may hold, all together.

    Raises:
        ZooError: fewer LoRAs or numbers than directions. With the mean taken off, N LoRAs span N - 1.
    """
    if num > min(len(x) - 1, x.shape[1]):
        raise ZooError(
            f"expected at least {num + 1} LoRAs of as many numbers for {num} components, got {x.shape[0]} of {x.shape[1]}; "
            "make a larger zoo or lower num_components"
        )
    return _leading(x, num, blocks, local_numbers)


def predictable_stem(
    x: Float[Tensor, "N F"] | Rows,
    embedding: Float[Tensor, "N D"],
    num: int,
    blocks: Sequence[int],
    local_numbers: int,
    lam: float = 1.0,
) -> Stem:
    """The directions along which LoRAs follow their people: principal components of what ridge regression predicts.

    A LoRA varies most along what is particular to its training, and a person is spread thinly over very many directions: of a zoo
    of 272, the 96 leading principal components hold 0.57 of a held-out LoRA's variance, and the LoRA so reduced has a likeness
    of 0.56. The components of ``x_hat = embedding @ W``, W by ridge regression, hold 0.51 of the variance and leave 0.60
    (reduced-rank regression, Izenman, 1975; differs from the paper, which has no stem).

    One pass over the zoo. The memory is a few times D F numbers.

    Args:
        x: canonical vectors, of mean zero.
        embedding: of the same people.
        num: K, at most the number of embedding dimensions.
        blocks: F_m, how many of their numbers are of each module.
        local_numbers: how many numbers the local directions may hold, all together.
        lam: ridge's regularisation, relative to the mean variance of an embedding's entries times N.

    Raises:
        ZooError: fewer LoRAs, numbers or embedding dimensions than directions.
    """
    if num > min(len(x) - 1, *embedding.shape[1:], x.shape[1]):
        raise ZooError(
            f"expected at least {num + 1} LoRAs, {num} numbers and {num} embedding dimensions for {num} components, got "
            f"{x.shape[0]}, {x.shape[1]} and {embedding.shape[1]}; make a larger zoo or lower num_components"
        )
    # 1. Ridge regression of LoRAs on embeddings, the products summed over one pass.
    e = embedding - embedding.mean(0)
    gram = e.T @ e
    ridge = gram + lam * gram.diagonal().mean() * torch.eye(len(gram))
    products_DF, seen = torch.zeros(e.shape[1], x.shape[1]), 0
    for part in chunks(x):
        products_DF.addmm_(e[seen : seen + len(part)].T, part)
        seen += len(part)
    weight_DF = torch.linalg.solve(ridge, products_DF)
    del products_DF
    # 2. Its predictions, as D rows.
    # x_hatᵀ x_hat = Wᵀ (eᵀ e) W: the root of eᵀ e turns the N predictions into D rows with the same components.
    values, vectors = torch.linalg.eigh(gram.double())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return _leading(root.float() @ weight_DF, num, blocks, local_numbers)


def _within(x: Float[Tensor, "B F"], local: Sequence[Tensor]) -> Float[Tensor, "B M"]:
    parts = x.split([table.shape[1] for table in local], dim=1)
    return torch.cat([part @ table.T for part, table in zip(parts, local, strict=True)], dim=1)


def _leading(rows: Float[Tensor, "n F"] | Rows, num: int, blocks: Sequence[int], local_numbers: int) -> Stem:
    """The leading right singular vectors of a matrix, found within blocks of its columns first.

    Local directions are taken where they hold most of the matrix for each number they cost, until ``local_numbers`` are spent. Of
    each block one at least, and ``num`` of all blocks.
    """
    # 1. Each block's own singular directions, from one pass.
    scatters = [Scatter(len(rows), f) for f in blocks]
    for chunk in chunks(rows):
        for scatter, part in zip(scatters, chunk.split(list(blocks), dim=1), strict=True):
            scatter.add(part)
    found = []
    for f in blocks:
        values, directions = scatters.pop(0).singular()
        found.append((values, directions[: max(num, local_numbers // f)].clone()))  # more of them are never taken
    # 2. Of all blocks, the directions that hold most for each number they cost.
    worth = torch.cat([values[: len(directions)] / directions.shape[1] for values, directions in found])
    cost = torch.cat([torch.full((len(directions),), directions.shape[1]) for _, directions in found])
    block = torch.cat([torch.full((len(directions),), m) for m, (_, directions) in enumerate(found)])
    place = torch.cat([torch.arange(len(directions)) for _, directions in found])
    order = worth.argsort(descending=True)
    taken = (cost[order].cumsum(0) <= local_numbers) | (torch.arange(len(order)) < num)
    chosen = torch.zeros_like(place, dtype=torch.bool)
    chosen[order] = taken
    chosen |= place == 0
    local = [directions[: int(chosen[block == m].sum())] for m, (_, directions) in enumerate(found)]
    # 3. The directions across blocks, among the local coordinates that were taken.
    within = (_within(chunk, local) for chunk in chunks(rows))
    _, across = singular(within, len(rows), sum(map(len, local)))
    return Stem(local, across[:num].contiguous())
