"""A safetensors file of a model, zoo or run: its header first, and its numbers only where they have the shapes that they must.

    with TensorFile(path) as file:
        dimensions(file.shapes, {"weight": "Z D", "bias": "Z"})
        tensors = file.read()

A header of 1 KB may promise shapes of gigabytes, and a model made by it would take them. So a file is held against its own
length, and against the model's shapes, before anything of that size is allocated.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lorasynth.errors import ModelError
from lorasynth.storage.faults import FaultyFileError
from lorasynth.storage.header import parse_header
from lorasynth.storage.reading import open_regular, parse_json
from lorasynth.storage.schema import Misfit, Shapes, Type, fit

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""safetensors' name of a type -> torch's."""
MAX_MB = 1 << 16
MAX_HEADER_BYTES = 1 << 22


class TensorFile:
    """A file whose header is sound. Use it in a ``with``. What does not fit in there is a `ModelError` that names the file."""

    def __init__(self, path: str | Path, max_mb: int = MAX_MB):
        """Open a file and read its header.

        Args:
            path: the file.
            max_mb: a larger file is refused.

        Raises:
            ModelError: it is missing, unreadable, too large, no file, or not safetensors.
        """
        self.path = path
        self._file = open_regular(path, max_mb)
        try:
            self.num_bytes = os.fstat(self._file.fileno()).st_size
            self._entries, self.metadata = self._header()
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if MAX_HEADER_BYTES < length <= self.num_bytes:
            raise ModelError(
                f"{self.path}: expected a header of at most {MAX_HEADER_BYTES} bytes, got {length}; get it again"
            )
        self._data = 8 + length
        try:  # a length that cannot be is another format's first bytes: some more of them tell which
            return parse_header(start + self._file.read(length if length <= MAX_HEADER_BYTES else 64), self.num_bytes)
        except FaultyFileError as error:
            raise ModelError(f"{self.path}: expected a safetensors file: {error.fault}") from None

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if isinstance(error, Misfit):
            raise ModelError(f"{self.path}: {error}; get it again") from None

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of all tensors."""
        return {name: tuple(entry["shape"]) for name, entry in self._entries.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Name -> type of the numbers, as stored."""
        return {name: DTYPES[entry["dtype"]] for name, entry in self._entries.items()}

    def said(self, fields: Mapping[str, Type]) -> dict[str, Any]:
        """What the header says, of these types. A field of a type that takes None may be missing.

        Raises:
            Misfit: a field is missing or of another type.
        """
        return {name: fit(kind, self.metadata.get(name), f"header, {name}") for name, kind in fields.items()}

    def json(self, field: str, kind: Type) -> Any:
        """What a field of the header says as JSON.

        Raises:
            Misfit: it is missing, is not JSON, or of another type.
        """
        if field not in self.metadata:
            raise Misfit(f"header, {field}", "JSON", None)
        return parse_json(self.metadata[field], kind, f"header, {field}")

    def read(self) -> dict[str, Tensor]:
        """All tensors, on the default device, in fp32 where they are floating point.

        The file is read into memory, never mapped: a file that is cut short under a mapping kills the process.

        Raises:
            Misfit: the file was cut short meanwhile.
        """
        device = torch.get_default_device()
        tensors = {name: self._tensor(entry).to(device) for name, entry in self._entries.items()}
        return {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in tensors.items()}

    def _tensor(self, entry: dict[str, Any]) -> Tensor:
        shape, begin = entry["shape"], entry["data_offsets"][0]
        flat = torch.empty(math.prod(shape), dtype=DTYPES[entry["dtype"]], device="cpu")
        place = flat.view(torch.uint8).numpy().data
        self._file.seek(self._data + begin)
        if self._file.readinto(place) != len(place):
            raise Misfit("", "a file at rest", "one that was cut short")
        return flat.reshape(shape)
