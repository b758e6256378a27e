"""A zoo's LoRAs where they lie: any row of any shard, read by its offset, so that a zoo may be larger than memory."""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.errors import ModelError, ZooError
from lorasynth.storage.rows import Rows
from lorasynth.zoo.manifest import Item
from lorasynth.zoo.shards import ShardHeader, open_header, shard_path


def open_rows(folder: Path, items: Sequence[Item], num_parameters: int) -> tuple[Rows, Float[Tensor, "N J D"]]:
    """LoRAs of items, still to be read, and their embeddings, which are few numbers and are read now.

    Rows are read into memory, never mapped: a file that is cut short under a mapping kills the process. The digest is that of
    the hashes in the manifest.

    Args:
        folder: the zoo's.
        items: in the order of the rows.
        num_parameters: P.

    Raises:
        ModelError: a shard is missing, damaged, too short for its items, or lies outside the zoo.
        ZooError: embeddings of several shapes.
    """
    needed: dict[str, int] = defaultdict(int)
    for item in items:
        needed[item.shard] = max(needed[item.shard], item.row + 1)
    headers = {name: _header(folder, name, rows, num_parameters) for name, rows in needed.items()}
    if len(shapes := {header.embedding_shape for header in headers.values()}) > 1:
        raise ZooError(f"{folder}: expected embeddings of one shape, got {shapes}; run `lorasynth zoo verify`")
    shape = shapes.pop()

    def read(rows: Int[Tensor, " B"]) -> Float[Tensor, "B P"]:
        return _gather(folder, [items[row] for row in rows.tolist()], headers, "vectors")

    digest = hashlib.sha256("".join(item.sha256 for item in items).encode()).hexdigest()[:16]
    embeddings = _gather(folder, items, headers, "embeddings").unflatten(1, shape)
    return Rows(read, (len(items), num_parameters), digest), embeddings


def _header(folder: Path, name: str, num_rows: int, num_parameters: int) -> ShardHeader:
    path = shard_path(folder, name)
    try:
        header = open_header(folder, name, num_parameters)
    except ZooError as error:
        raise ModelError(f"{path}: {error}; run `lorasynth zoo verify`") from None
    if header.num_rows < num_rows:
        raise ModelError(f"{path}: expected {num_rows} rows, got {header.num_rows}; run `lorasynth zoo verify`")
    return header


def _gather(folder: Path, items: Sequence[Item], headers: dict[str, ShardHeader], key: str) -> Float[Tensor, "B n"]:
    """One of a shard's two matrices, the rows of some items, in fp32."""
    size = next(iter(headers.values())).row_bytes(key)
    # NOTE: numpy's memory, for which it asks the system for huge pages: a third of the time of torch's, page by page.
    table = torch.from_numpy(np.empty((len(items), size // 2), np.float32))
    row = np.empty(size // 2, np.float16)
    places = defaultdict(list)
    for place, item in enumerate(items):
        places[item.shard].append(place)
    for name, here in places.items():
        path, begin = shard_path(folder, name), getattr(headers[name], key)
        try:
            with io.FileIO(path) as file:
                for place in here:
                    _read_into(file, row, begin + items[place].row * size)
                    table[place] = torch.from_numpy(row)
        except OSError as error:
            raise ModelError(
                f"{path}: expected to read its rows, got {error.strerror!r}; is the zoo still there?"
            ) from None
        except EOFError:
            raise ModelError(f"{path}: expected a file at rest, got one that was cut short; get it again") from None
    return table.to(torch.get_default_device())


def _read_into(file: io.FileIO, row: np.ndarray, offset: int) -> None:
    rest = memoryview(row.data).cast("B")
    while rest:
        count = os.preadv(file.fileno(), [rest], offset)
        if count == 0:
            raise EOFError
        rest, offset = rest[count:], offset + count
