"""A shard's bytes: the float16 matrices "vectors" and "embeddings", read strictly and hashed row by row."""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lorasynth.errors import LoRAFileError, ModelError, ZooError
from lorasynth.storage.container import read_bytes, read_start
from lorasynth.storage.faults import shown
from lorasynth.storage.header import parse_header

# NOTE: looking at a zoo asks for no torch, whose import takes ten times as long.
if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

MAX_SHARD_MB = 1 << 20
HEADER_BYTES = 1 << 14
"""More than the header of a shard, which names two matrices, ever has."""


@dataclass(frozen=True)
class Shard:
    """The rows of one shard, as stored."""

    num_rows: int
    embedding_shape: tuple[int, int]  # J, D
    _vectors: memoryview  # their bytes
    _embeddings: memoryview

    def vector_bytes(self, row: int) -> memoryview:
        """One LoRA's bytes."""
        size = len(self._vectors) // self.num_rows
        return self._vectors[row * size : (row + 1) * size]

    def embedding_bytes(self, row: int) -> memoryview:
        """One item's embeddings' bytes."""
        size = len(self._embeddings) // self.num_rows
        return self._embeddings[row * size : (row + 1) * size]

    def take(self, rows: list[int]) -> tuple[Float[Tensor, "n P"], Float[Tensor, "n J D"]]:
        """Some rows' LoRAs and embeddings in float16, bit for bit as stored."""
        vectors = np.stack([np.frombuffer(self.vector_bytes(row), np.float16) for row in rows])
        embeddings = np.stack([np.frombuffer(self.embedding_bytes(row), np.float16) for row in rows])
        import torch

        return torch.from_numpy(vectors), torch.from_numpy(embeddings.reshape(len(rows), *self.embedding_shape))


def shard_path(folder: Path, name: str) -> Path:
    """Where a shard is: in the zoo's folder or, of a zoo in the hub's cache, whose files are links, in that repository's blobs.

    Raises:
        ModelError: outside the zoo, by its name or a link.
    """
    path = folder / f"{name}.safetensors"
    # NOTE: not Path.resolve, which raises a RuntimeError for a link that goes round; reading names that.
    homes = [folder] + [folder.parent.parent / "blobs"] * (folder.parent.name == "snapshots")
    if "\0" in name or not any(  # a NUL is in no path
        Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home)) for home in homes
    ):
        raise ModelError(
            f"{shown(path)}: expected a shard within the zoo, got a way out of it; put the file itself there"
        )
    return path


def read_shard(folder: Path, name: str, num_parameters: int | None = None) -> Shard:
    """Read a shard whose header has to be, byte for byte, one that we write.

    Args:
        folder: the zoo's.
        name: the shard's.
        num_parameters: P, how many numbers a LoRA has; None where nobody knows.

    Raises:
        ZooError: it cannot be read, is damaged, or holds something else; as "expected ..., got ...".
    """
    try:
        path = shard_path(folder, name)
        # The header against the file's length first: a sparse file of a terabyte is not to be read.
        start = read_start(path, HEADER_BYTES, MAX_SHARD_MB)
        parse_header(start, path.stat().st_size)
        content = read_bytes(path, MAX_SHARD_MB)
        _, metadata = parse_header(content)
    except ModelError as error:
        raise ZooError(str(error).partition(": ")[2]) from None
    except LoRAFileError as error:
        raise ZooError(str(error)) from None
    text = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip(b" ")
    if metadata or json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode() != text:
        raise ZooError("expected a header as it is written here, got one that was changed")
    header, view = read_header(content, len(content), num_parameters), memoryview(content)
    parts = (
        view[begin : begin + header.num_rows * header.row_bytes(key)]
        for key, begin in (("vectors", header.vectors), ("embeddings", header.embeddings))
    )
    return Shard(header.num_rows, header.embedding_shape, *parts)


@dataclass(frozen=True)
class ShardHeader:
    """Where in a shard's file its rows are."""

    num_rows: int
    num_parameters: int
    embedding_shape: tuple[int, int]  # J, D
    vectors: int  # where the first row begins, in bytes
    embeddings: int

    def row_bytes(self, key: str) -> int:
        """How many bytes a row of "vectors" or "embeddings" has."""
        return 2 * (self.num_parameters if key == "vectors" else math.prod(self.embedding_shape))


def read_header(start: bytes, num_bytes: int, num_parameters: int | None = None) -> ShardHeader:
    """Read a shard's header and check that it is a shard's.

    Args:
        start: of the file, with the header as a whole.
        num_bytes: of the file.
        num_parameters: P, how many numbers a LoRA has; None where nobody knows.

    Raises:
        ZooError: it is damaged, or holds something else; as "expected ..., got ...".
    """
    try:
        entries, _ = parse_header(start, num_bytes)
    except LoRAFileError as error:
        raise ZooError(str(error)) from None
    shapes = {key: (entry["dtype"], *entry["shape"]) for key, entry in entries.items()}
    vectors, embeddings = shapes.get("vectors", ()), shapes.get("embeddings", ())
    if (
        set(shapes) != {"vectors", "embeddings"}
        or (len(vectors), len(embeddings)) != (3, 4)
        or {vectors[0], embeddings[0]} != {"F16"}
        or vectors[1] != embeddings[1]
        or vectors[1] == 0
        or num_parameters not in (None, vectors[2])
    ):
        raise ZooError(
            f"expected vectors (F16, n, {num_parameters or 'P'}) and embeddings (F16, n, J, D), got {shapes}"
        )
    data = 8 + int.from_bytes(start[:8], "little")
    at = {key: data + entry["data_offsets"][0] for key, entry in entries.items()}
    return ShardHeader(vectors[1], vectors[2], (embeddings[2], embeddings[3]), at["vectors"], at["embeddings"])


def open_header(folder: Path, name: str, num_parameters: int | None = None) -> ShardHeader:
    """`read_header` of a shard's file, of which no more is read.

    Raises:
        ZooError: it cannot be read, is damaged, or holds something else; as "expected ..., got ...".
    """
    try:
        path = shard_path(folder, name)
        start = read_start(path, HEADER_BYTES, MAX_SHARD_MB)
        return read_header(start, path.stat().st_size, num_parameters)
    except ModelError as error:
        raise ZooError(str(error).partition(": ")[2]) from None
    except (LoRAFileError, OSError) as error:
        raise ZooError(str(error)) from None


def row_hash(row: Tensor | memoryview) -> str:
    """The sha256 of a row as stored, in hex."""
    return hashlib.sha256(row if isinstance(row, memoryview) else row.numpy().tobytes()).hexdigest()


def holds(folder: Path, name: str, vectors: Float[Tensor, "n P"], embeddings: Float[Tensor, "n J D"]) -> bool:
    """Whether a shard is there and is sound, with just these rows in float16."""
    try:
        shard = read_shard(folder, name, vectors.shape[1])
    except ZooError:
        return False
    there = shard.take(list(range(shard.num_rows)))
    return all(
        one.shape == other.shape and row_hash(one) == row_hash(other)
        for one, other in zip(there, (vectors, embeddings), strict=True)
    )
