"""A zoo on disk: immutable shards of LoRAs and embeddings, and a manifest that says which items exist."""

import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import ModelError, ZooError
from lorasynth.files import read_json, read_tensors, write_bytes, write_json, write_tensors
from lorasynth.hub import local_copy, publish
from lorasynth.lora.layout import Layout

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEMA_VERSION = 1
FILES = ("zoo.json", "manifest.jsonl", "init.safetensors", "shard-*.safetensors", "README.md")
"""What a zoo's folder consists of; README.md is its card, where it was published or somebody wrote one."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One record of the manifest. An item exists only if it has one, and ``sha256`` is that of its row as stored."""

    id: str
    person: int
    split: str
    shard: str
    row: int
    sha256: str
    source: str
    licence: str
    relative_error: float = 0.0  # of ΔW, where an import had to lower the rank


@dataclass(frozen=True)
class Zoo:
    """Many LoRAs of one layout.

    A folder with ``zoo.json`` (layout, recipe), ``init.safetensors`` (the shared initialisation, where there was one),
    ``shard-*.safetensors`` ("vectors" (n, P) fp16 and "embeddings" (n, J, D) fp16) and ``manifest.jsonl``. Readable with
    safetensors and any JSON reader.
    """

    folder: Path
    layout: Layout
    recipe: dict[str, Any]
    items: tuple[Item, ...]

    @classmethod
    def create(
        cls, folder: str | Path, layout: Layout, recipe: dict[str, Any], init: Float[Tensor, " P"] | None
    ) -> "Zoo":
        """Begin a zoo, or open the one that is there if its layout and recipe are the same.

        Args:
            folder: where.
            layout: of its LoRAs.
            recipe: how they come about, as JSON values.
            init: what all of them were trained from; None where they come from elsewhere.

        Raises:
            ZooError: another zoo is there.
        """
        folder = Path(folder)
        record = {"schema": SCHEMA_VERSION, "layout": layout.to_dict(), "recipe": recipe}
        if (folder / "zoo.json").exists():
            found = read_json(folder / "zoo.json")
            if found != json.loads(json.dumps(record)):
                changed = [k for k in recipe if found.get("recipe", {}).get(k) != json.loads(json.dumps(recipe))[k]]
                raise ZooError(
                    f"{folder}: holds a zoo of another recipe ({changed or 'layout'}); choose another folder"
                )
            return cls.open(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if init is not None:
            write_tensors(folder / "init.safetensors", {"init": init})
        write_json(folder / "zoo.json", record)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Zoo":
        """Open a zoo. A torn last line of the manifest (a writer was killed) is not an item.

        Raises:
            ZooError: there is none, or it is of a newer version.
        """
        folder = Path(folder)
        try:
            record = read_json(folder / "zoo.json")
        except ModelError as error:
            raise ZooError(f"{folder}: expected a zoo: {error}") from None
        if record.get("schema") != SCHEMA_VERSION:
            raise ZooError(
                f"{folder}: schema {record.get('schema')!r}, this version reads {SCHEMA_VERSION}; upgrade lorasynth"
            )
        items: dict[str, Item] = {}
        manifest = folder / "manifest.jsonl"
        for line in manifest.read_text().splitlines(keepends=True) if manifest.exists() else ():
            if line.endswith("\n"):
                item = Item(**json.loads(line))
                if item.id in items:
                    raise ZooError(f"{manifest}: item {item.id!r} stands twice; remove one line")
                items[item.id] = item
        return cls(folder, Layout.from_dict(record["layout"]), record["recipe"], tuple(items.values()))

    @classmethod
    def from_hub(cls, repo_id: str) -> "Zoo":
        """Open the local copy of a zoo's repository on the Hugging Face hub, downloaded where there is none yet.

        Raises:
            ModelError: the hub could not give it.
            ZooError: it is no zoo.
        """
        return cls.open(local_copy(repo_id, "dataset", FILES))

    def push_to_hub(self, repo_id: str, *, private: bool = True, api: "HfApi | None" = None) -> str:
        """Publish the zoo as a data set repository on the Hugging Face hub.

        Its card is the folder's ``README.md``; where there is none, one is written.

        Args:
            repo_id: ``owner/name``; made where there is none.
            private: whether a repository that is made now is seen by its owner only. NOTE: a zoo holds embeddings of faces.
            api: who talks to the hub; by default `huggingface_hub.HfApi`.

        Returns:
            The address of the repository.

        Raises:
            ZooError: an item is not as the manifest says.
            UsageError: it is no repository's name, or the hub refused.
        """
        from lorasynth.cards import zoo_card

        if faults := self.verify():
            raise ZooError(f"{self.folder}: expected a sound zoo to publish, got {len(faults)} faults ({faults[0]})")
        if not (self.folder / "README.md").exists():
            write_bytes(self.folder / "README.md", zoo_card(self).encode())
        return publish(self.folder, repo_id, "dataset", FILES, private=private, api=api)

    def init(self) -> Float[Tensor, " P"]:
        """The shared initialisation that every LoRA of the zoo was trained from.

        Raises:
            ZooError: there was none.
        """
        if not (self.folder / "init.safetensors").exists():
            raise ZooError(
                f"{self.folder}: expected a shared initialisation, got an imported zoo; use a recipe with gauge 'procrustes'"
            )
        return read_tensors(self.folder / "init.safetensors")[0]["init"]

    def append(
        self,
        shard: str,
        persons: list[int],
        splits: list[str],
        vectors: Float[Tensor, "n P"],
        embeddings: Float[Tensor, "n J D"],
        source: str,
        licence: str,
        *,
        ids: list[str] | None = None,
        relative_errors: list[float] | None = None,
    ) -> None:
        """Write one shard and then its records. Several processes may append different shards at once.

        Args:
            shard: its name.
            persons: who each LoRA is of.
            splits: "train", "validation" or "held_out" of each; the same for all LoRAs of a person.
            vectors: the LoRAs.
            embeddings: J of each.
            source: where they come from.
            licence: what they may be used for.
            ids: of the items; by default one a person.
            relative_errors: of ΔW, from bringing each to the layout's rank; 0 by default.

        Raises:
            ZooError: a LoRA is not finite.
        """
        if not torch.isfinite(vectors).all():
            raise ZooError(f"{shard}: a LoRA is not finite; its training diverged, lower the learning rate")
        rows = vectors.half().contiguous()
        ids = ids or [f"{self.layout.base}-{person}" for person in persons]
        errors = relative_errors or [0.0] * len(persons)
        write_tensors(self.folder / f"{shard}.safetensors", {"vectors": rows, "embeddings": embeddings.half()})
        records = [
            Item(
                id=ids[i], person=person, split=split, shard=shard, row=i, sha256=_row_hash(rows[i]), source=source,
                licence=licence, relative_error=errors[i],
            )
            for i, (person, split) in enumerate(zip(persons, splits, strict=True))
        ]  # fmt: skip
        with (self.folder / "manifest.jsonl").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("".join(json.dumps(asdict(r)) + "\n" for r in records))
            file.flush()
            os.fsync(file.fileno())

    def __len__(self) -> int:
        return len(self.items)

    def load(self, split: str | None = None) -> tuple[list[int], Float[Tensor, "N P"], Float[Tensor, "N J D"]]:
        """Persons, LoRAs and embeddings, in order of person number, in fp32.

        Raises:
            ZooError: there are none.
        """
        items = sorted((i for i in self.items if split in (None, i.split)), key=lambda i: i.person)
        if not items:
            raise ZooError(f"{self.folder}: expected LoRAs of split {split!r}, got none; build the zoo first")
        shards = {s: self._shard(s) for s in {i.shard for i in items}}
        vectors = torch.stack([shards[i.shard]["vectors"][i.row] for i in items])
        embeddings = torch.stack([shards[i.shard]["embeddings"][i.row] for i in items])
        return [i.person for i in items], vectors, embeddings

    def rows(self, shard: str) -> list[tuple[str, Float[Tensor, " P"], Float[Tensor, "J D"]]]:
        """Id, LoRA and embeddings of one shard's items, in fp32."""
        tensors = self._shard(shard)
        here = [item for item in self.items if item.shard == shard]
        return [(item.id, tensors["vectors"][item.row], tensors["embeddings"][item.row]) for item in here]

    def _shard(self, name: str) -> dict[str, Tensor]:
        """The tensors of a shard.

        Raises:
            ModelError: it is missing, damaged, or lies outside the zoo.
        """
        path = self.folder / f"{name}.safetensors"
        # NOTE: not Path.resolve, which raises a RuntimeError for a link that goes round; reading names that.
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
            raise ModelError(f"{path}: expected a shard within the zoo, got a way out of it; put the file itself there")
        return read_tensors(path)[0]

    def verify(self) -> list[str]:
        """What is wrong with the stored items: a sentence each, naming the item (an empty list is a sound zoo)."""
        faults = []
        for shard in sorted({i.shard for i in self.items}):
            try:
                rows = self._shard(shard)["vectors"].half()
            except (ModelError, KeyError) as error:
                faults.append(f"{shard}: {error}")
                continue
            for item in (i for i in self.items if i.shard == shard):
                if item.row >= len(rows) or (actual := _row_hash(rows[item.row])) != item.sha256:
                    got = "no such row" if item.row >= len(rows) else f"sha256 {actual[:12]}"
                    faults.append(f"{item.id}: expected sha256 {item.sha256[:12]} in {shard} row {item.row}, got {got}")
        return faults


def _row_hash(row: Tensor) -> str:
    return hashlib.sha256(row.numpy().tobytes()).hexdigest()
