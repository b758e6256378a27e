"""weights2weights' zoo as published: 64,974 rank-1 LoRAs of Stable Diffusion 1.5 in one file, read row by row (arXiv 2406.09413).

``all_weights.pt`` is a PyTorch zip: its pickle says "float32 tensor of this shape" and its numbers lie uncompressed behind. The
numbers are read where they lie. The pickle is never opened.
"""

import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.protocol import Reading
from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.tables import read_table, require_columns, unused_columns
from lorasynth.zoo.importing.candidates import Candidate, Content, Loaded

FILE_NAME, LABELS_NAME = "all_weights.pt", "identity_df.pt"
HOW_TO_READ_LABELS = (
    f"{LABELS_NAME} is a pickled pandas table, which could run anything and is never opened here; if you trust it, let a Python "
    f"with pandas write it as CSV: torch.load('{LABELS_NAME}', weights_only=False).rename_axis(None).to_csv('people.csv'); then "
    "give --table people.csv (docs/reference/real-bases.md)"
)
"""What to do about the release's own table."""
_INDEX = ("", "__index_level_0__")  # what pandas calls an index without a name, in CSV and in Parquet
SCALING = 27.0
"""lora_alpha of all of its LoRAs, at rank 1; their vectors hold the factors without it."""
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a zip's member; the last two are the lengths of name and extra field


@dataclass(frozen=True)
class ReleasedRows:
    """A float32 matrix in a file, row by row. Read, not mapped: mapped pages would count as memory as they are touched."""

    path: Path
    start: int  # byte of the first row
    num_rows: int
    num_columns: int

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, n: int) -> Float[Tensor, " P"]:
        with self.path.open("rb") as file:
            return torch.from_numpy(
                np.fromfile(file, np.float32, self.num_columns, offset=self.start + 4 * n * self.num_columns)
            )


def open_rows(path: Path, num_columns: int) -> ReleasedRows:
    """The float32 matrix (N, num_columns) of a PyTorch zip that holds one tensor.

    Raises:
        ZooError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            order = archive.read(members["byteorder"]) if "byteorder" in members else b"little"
    except (OSError, zipfile.BadZipFile) as error:
        raise ZooError(f"{path}: expected {FILE_NAME} as published, a PyTorch zip, got {error}") from None
    storages = [name for name in members if name.startswith("data/")]
    if storages != ["data/0"] or order.strip() != b"little":
        raise ZooError(f"{path}: expected one tensor, little-endian, got {len(storages)} storages, {order.decode()!r}")
    info = members["data/0"]
    row_bytes = 4 * num_columns
    if info.compress_type != zipfile.ZIP_STORED or info.file_size % row_bytes or not info.file_size:
        raise ZooError(
            f"{path}: expected uncompressed float32 rows of {num_columns} numbers, got {info.file_size} bytes, "
            f"{info.file_size / row_bytes:.2f} rows; is it the matrix of another layout?"
        )
    with path.open("rb") as file:
        file.seek(info.header_offset)
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return ReleasedRows(path, start, info.file_size // row_bytes, num_columns)


def candidates_of(
    folder: Path, table: Path, embeddings: Path, *, report: Callable[[str], None] = print
) -> tuple[list[Candidate], Layout]:
    """The rows of a release that a table names, with their embeddings.

    Args:
        folder: holds ``all_weights.pt``.
        table: CSV, JSONL or Parquet with the columns ``row`` (from 0) and ``person``; several rows may be of one person. Or the
            release's own table as pandas writes it, a row for each LoRA in their order: without ``person``, the index's names.
        embeddings: a ``.npy`` matrix, row n the face embedding of LoRA n.
        report: gets a line where the table says nothing of persons.

    Returns:
        The candidates, and the layout ``sd15-w2w`` of their vectors.

    Raises:
        ZooError, UsageError: a file is not what it should be, or they do not fit each other.
    """
    layout = Layout.preset("sd15-w2w", rank=1)
    weights = open_rows(folder / FILE_NAME, layout.num_parameters)
    try:
        faces = np.load(embeddings, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"{embeddings}: expected a .npy matrix of embeddings, got {error}") from None
    if faces.ndim != 2 or len(faces) != len(weights):
        raise UsageError(f"{embeddings}: expected ({len(weights)}, D), a row for each LoRA, got {faces.shape}")
    scale = torch.ones(layout.num_parameters)
    for _, lora_B in layout.slices.values():
        scale[lora_B] = SCALING

    def candidate(n: int, person: str) -> Candidate:
        return Candidate(
            name=f"{FILE_NAME} row {n}",
            person=person,
            read=lambda: Content(id=f"w2w-{n:06d}", load=lambda: Loaded(layout=layout, vector=weights[n] * scale)),
            num_bytes=lambda: 4 * layout.num_parameters,
            face=lambda: Reading(embedding=_unit(faces[n], n), quality=None),
        )

    return [candidate(n, person) for n, person in _rows(table, len(weights), report)], layout


def _rows(table: Path, count: int, report: Callable[[str], None]) -> Sequence[tuple[int, str]]:
    """ReleasedRows of the matrix, and whose they are."""
    if table.suffix in (".pt", ".pkl", ".pickle"):
        raise UsageError(f"{table}: expected a .csv, .jsonl or .parquet table, got a pickle. {HOW_TO_READ_LABELS}")
    records = read_table(table, ())
    columns = records[0].keys() if records else ()
    index = next((name for name in _INDEX if name in columns), None)
    if index is not None and "row" not in columns:
        if len(records) != count:
            raise UsageError(
                f"{table}: expected a row for each of {count} LoRAs, in their order, or a column row, got {len(records)} rows"
            )
        records = [{"row": n, **record} for n, record in enumerate(records)]
    if index is not None and "person" not in columns:
        records = [{"person": record[index], **record} for record in records]
        report(
            f"{table}: has no column person, so that each name of its index counts as a person; several LoRAs of one person may "
            "fall into different splits"
        )
    require_columns(table, records, ("row", "person"))
    if unused := unused_columns(table, records, ("row", "person")):
        report(unused)
    named: dict[int, str] = {}
    for number, record in enumerate(records, start=1):
        text = str(record["row"])
        if not text.isdigit() or int(text) >= count:
            raise UsageError(f"{table} row {number}: expected a row of the matrix, 0 to {count - 1}, got {text}")
        if int(text) in named:
            raise UsageError(f"{table} row {number}: expected each LoRA once, got row {text} again")
        named[int(text)] = str(record["person"])
    return sorted(named.items())


def _unit(values: np.ndarray, n: int) -> Float[Tensor, " D"]:
    embedding = torch.from_numpy(np.array(values, np.float32))
    norm = float(embedding.norm())
    if not 0 < norm < float("inf"):
        raise ZooError(f"embedding {n}: expected one with a direction, got norm {norm}")
    return embedding / norm
