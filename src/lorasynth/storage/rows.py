"""Matrices of more rows than memory holds: a row is read or computed when it is asked for."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.storage.fingerprint import fingerprint

_NUMBERS_AT_ONCE = 1 << 23
_ROWS_AT_ONCE = 256


class Rows:
    """N vectors of F numbers, in fp32 on the default device, to be used like a tensor where one slices it or picks rows.

    What computes with a zoo takes either, goes through it by `chunks`, and so does the same sums in the same order on both.
    """

    dtype = torch.float32

    def __init__(
        self,
        read: Callable[[Int[Tensor, " B"]], Float[Tensor, "B F"]],
        shape: tuple[int, int],
        digest: str,
        numbers: Int[Tensor, " N"] | None = None,
    ):
        """Say where rows come from.

        Args:
            read: gives the rows of these numbers, which are on the CPU and may be none, in memory that is the caller's own.
            shape: N and F.
            digest: changes with what the rows hold, as `fingerprint` does.
            numbers: of the rows in what they were taken from, for messages; by default 0 … N - 1.
        """
        self._read, self.shape, self.digest = read, shape, digest
        self.numbers = torch.arange(shape[0], device="cpu") if numbers is None else numbers

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """The rows of a slice, or of a tensor of row numbers, which may come twice and in any order."""
        if isinstance(index, Tensor):
            index = index.cpu()
        return self._read(torch.arange(len(self), device="cpu")[index])

    def take(self, rows: Int[Tensor, " n"]) -> "Rows":
        """Some of the rows, still to be read."""
        rows = rows.cpu()
        return Rows(
            lambda index: self._read(rows[index]), (len(rows), self.shape[1]), self.digest + fingerprint(rows),
            self.numbers[rows],
        )  # fmt: skip


def numbers_of(x: Float[Tensor, "N F"] | Rows) -> Int[Tensor, " N"]:
    """The number of each row in what it was taken from, for messages. A tensor's rows are counted."""
    return x.numbers if isinstance(x, Rows) else torch.arange(len(x), device="cpu")


def rows_at_once(x: Float[Tensor, "N F"] | Rows) -> int:
    """At most 256 rows, and as many as have 8 million numbers."""
    return max(1, min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // x.shape[1]))


def chunks(x: Float[Tensor, "N F"] | Rows, size: int | None = None) -> Iterator[Float[Tensor, "n F"]]:
    """All rows in order, some at a time.

    Args:
        x: the rows.
        size: how many at a time; by default `rows_at_once`.
    """
    size = size or rows_at_once(x)
    for start in range(0, len(x), size):
        yield x[start : start + size]
