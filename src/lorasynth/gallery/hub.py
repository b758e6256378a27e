"""A data set of the Hugging Face hub as a tree of files: its rows' pictures, and a table of captions and subjects."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasynth.errors import MissingExtraError, PhotoError, UsageError
from lorasynth.gallery.trees import FolderTree

PREFIX = "hf://datasets/"
SUBJECTS = ("subject", "identity", "person", "label", "name")
"""Columns that may say who a picture shows; the first that is there does."""
CAPTIONS = ("text", "caption", "prompt")
_TABLE = "metadata.jsonl"
_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*?)(?:@([\w./-]+))?")


class HubTree:
    """Rows of a data set as `SPLIT/000123.png`. A table names subjects and captions. Rows are read when they are asked for."""

    def __init__(self, name: str, parts: Mapping[str, Any]):
        """Take opened data sets of the `datasets` library.

        Args:
            name: what to call it.
            parts: a data set by the name of its split.

        Raises:
            UsageError: there is no column of pictures, or none that says who they show.
        """
        import datasets

        self.name = name
        self._rows: dict[str, tuple[Any, int, str]] = {}
        table = []
        for split, part in parts.items():
            image = next((c for c, f in part.features.items() if isinstance(f, datasets.Image)), None)
            subject = next((c for c in SUBJECTS if c in part.features), None)
            if image is None or subject is None:
                raise UsageError(
                    f"{name}: expected a column of pictures and one of {', '.join(SUBJECTS)}, got {', '.join(part.features)}; "
                    "add or rename columns"
                )
            caption = next((c for c in CAPTIONS if c in part.features), None)
            said = part.select_columns([c for c in (subject, caption) if c])
            names = part.features[subject].int2str if hasattr(part.features[subject], "int2str") else str
            pictures = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            for i, row in enumerate(said):
                file = f"{split}/{i:08d}.png"  # what it is, its content says
                self._rows[file] = (pictures, i, image)
                text = str(row[caption] or "") if caption else ""
                table.append({"file_name": file, "subject": names(row[subject]), "text": text})
        self._table = "\n".join(map(json.dumps, table)).encode()

    @classmethod
    def open(cls, spec: str) -> "HubTree":
        """Open ``hf://datasets/OWNER/NAME`` or ``hf://datasets/OWNER/NAME@REVISION``, downloading what is not here yet.

        Raises:
            MissingExtraError: the library `datasets` is not installed.
            UsageError: the name has another form, or no such data set can be opened.
        """
        match = _NAME.fullmatch(spec.removeprefix(PREFIX))
        if match is None:
            raise UsageError(f"expected {PREFIX}OWNER/NAME, perhaps with @REVISION, got {spec!r:.120}")
        try:
            import datasets
        except ImportError:
            raise MissingExtraError(f"{spec}: expected the library datasets; pip install 'lorasynth[data]'") from None
        try:
            parts = datasets.load_dataset(match[1], revision=match[2])
        except Exception as error:  # of many classes: of the hub, of its connection, of files' builders
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"{spec}: cannot be opened ({reason}); check the name and the connection") from None
        return cls(match[1].partition("/")[2], parts)

    def files(self) -> dict[str, int]:
        """The rows' pictures and the table. Sizes are not known before they are read."""
        return dict.fromkeys([*self._rows, _TABLE], 0)

    def read(self, file: str) -> bytes:
        """A picture's file, as it was put into the data set.

        Raises:
            PhotoError: the row holds no file.
        """
        if file == _TABLE:
            return self._table
        rows, index, column = self._rows[file]
        content = rows[index][column] or {"bytes": None, "path": None}
        if content["bytes"]:
            return content["bytes"]
        if content["path"] and rows.builder_name == "imagefolder":  # its pictures are the files that the library found
            return FolderTree(Path()).read(content["path"])
        raise PhotoError(f"{file}: expected a picture's bytes, got none; the data set names a file elsewhere")
