"""The head of a zoo: zoo.json and init.safetensors, what all of its LoRAs have in common."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from lorasynth.errors import ModelError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import write_json
from lorasynth.storage.reading import read_json, sha256_file
from lorasynth.storage.schema import ANYTHING, dimensions, table, text, whole
from lorasynth.storage.schema import record as fields

# NOTE: looking at a zoo asks for no torch, whose import takes ten times as long.
if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

HEAD_NAME = "zoo.json"
INIT_NAME = "init.safetensors"
SCHEMA_VERSION = 2
"""Since 2 the embeddings, each line of the manifest, the initialisation and zoo.json itself have checksums; 1 is read too."""
_HEAD = fields({"schema": whole(1, 1_000), "layout": Layout.parse, "recipe": table(text(200), ANYTHING)}, rest=ANYTHING)


def read_head(folder: Path) -> tuple[Layout, dict[str, Any]]:
    """A zoo's layout, and the recipe that it was made by.

    Raises:
        ZooError: there is no zoo, or it is of a newer version.
    """
    try:
        record = read_json(folder / HEAD_NAME, _HEAD)
    except ModelError as error:
        raise ZooError(f"{folder}: expected a zoo: {error}") from None
    if record["schema"] > SCHEMA_VERSION:
        raise ZooError(
            f"{folder}: schema {record['schema']}, this version reads up to {SCHEMA_VERSION}; upgrade lorasynth"
        )
    return record["layout"], record["recipe"]


def write_head(folder: Path, layout: Layout, recipe: dict[str, Any]) -> None:
    """Write what a zoo is of, with the hash of its initialisation and one of all this."""
    init = folder / INIT_NAME
    record = {
        "schema": SCHEMA_VERSION, "layout": layout.to_dict(), "recipe": recipe,
        "init": sha256_file(init) if init.exists() else None,
    }  # fmt: skip
    write_json(folder / HEAD_NAME, {**record, "sha256": zoo_json_hash(record)})


def bring_head_up_to_date(folder: Path) -> None:
    """Write an older version's head anew, before lines of now come into the manifest."""
    record = read_json(folder / HEAD_NAME)
    if record["schema"] < SCHEMA_VERSION:
        write_head(folder, Layout.from_dict(record["layout"]), record["recipe"])


def zoo_json_hash(record: dict[str, Any]) -> str:
    """The sha256 of what zoo.json says, but for that hash itself."""
    values = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_init(folder: Path, layout: Layout) -> Float[Tensor, " P"]:
    """The shared initialisation that every LoRA of a zoo was trained from.

    Raises:
        ZooError: there was none.
        ModelError: its file cannot be read, or is of another layout.
    """
    path = folder / INIT_NAME
    if not path.exists():
        raise ZooError(
            f"{folder}: expected a shared initialisation, got an imported zoo; use a recipe with gauge 'procrustes'"
        )
    from lorasynth.storage.tensorfile import TensorFile

    with TensorFile(path) as file:
        dimensions(file.shapes, {"init": "P"}, P=layout.num_parameters)
        init = file.read()["init"]
    if not init.is_floating_point():
        raise ModelError(f"{path}: init: expected floating point, got {init.dtype}; build anew")
    return init
