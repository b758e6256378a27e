"""A zoo on disk: immutable shards of LoRAs and embeddings, and a manifest that says which items exist."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from lorasynth.errors import ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.cards import CARD, PICTURES
from lorasynth.storage.files import write_tensors
from lorasynth.storage.hub import local_copy, publish
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.settings import config_difference
from lorasynth.workers.locks import locked
from lorasynth.zoo.head import HEAD_NAME, INIT_NAME, bring_head_up_to_date, read_head, read_init, write_head
from lorasynth.zoo.head import zoo_json_hash as zoo_json_hash
from lorasynth.zoo.ledger import Ledger
from lorasynth.zoo.manifest import MANIFEST_NAME, Item, Tombstone, read_records
from lorasynth.zoo.shards import holds, row_hash, shard_path
from lorasynth.zoo.verify import verify

# NOTE: looking at a zoo asks for no torch, whose import takes ten times as long.
if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from torch import Tensor

    from lorasynth.storage.rows import Rows
else:
    Tensor = Rows = Any

FILES = (HEAD_NAME, MANIFEST_NAME, INIT_NAME, "shard-*.safetensors", CARD, f"{PICTURES}/*.png")
"""What a zoo's folder consists of. Its card and pictures are there where it was published or somebody made some."""


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
    forgotten: tuple[Tombstone, ...] = ()

    def __repr__(self) -> str:
        """In a line: tens of thousands of items would fill a notebook."""
        return f"Zoo({str(self.folder)!r}, {len(self):,} LoRAs, {self.layout!r})"

    @classmethod
    def create(
        cls, folder: str | Path, layout: Layout, recipe: dict[str, Any], init: Float[Tensor, " P"] | None
    ) -> "Zoo":
        """Begin a zoo, or open the one that is there if its layout and recipe are the same.

        Args:
            folder: where.
            layout: of its LoRAs.
            recipe: how they come about, as JSON values; of `storage.settings.Settings`, what an earlier version did not know
                may be missing from the zoo's where it is at its default.
            init: what all of them were trained from; None where they come from elsewhere.

        Raises:
            ZooError: another zoo is there.
            UsageError: the folder cannot be made.
        """
        folder = make_folder(folder)
        with locked(folder):  # two that begin one zoo: the second opens it
            return cls._create(folder, layout, recipe, init)

    def require_recipe(self, layout: Layout, recipe: dict[str, Any]) -> None:
        """Check that a layout and a recipe, as in `create`, are this zoo's.

        Raises:
            ZooError: they are another's.
        """
        asked = json.loads(json.dumps(recipe))
        if self.layout != layout or config_difference(self.recipe, asked, defaults=getattr(recipe, "defaults", {})):
            changed = [k for k in {**self.recipe, **asked} if self.recipe.get(k) != asked.get(k)]
            raise ZooError(
                f"{self.folder}: holds a zoo of another recipe ({changed or 'layout'}); choose another folder"
            )

    @classmethod
    def _create(cls, folder: Path, layout: Layout, recipe: dict[str, Any], init: Float[Tensor, " P"] | None) -> "Zoo":
        if (folder / HEAD_NAME).exists():
            zoo = cls.open(folder)
            zoo.require_recipe(layout, recipe)
            bring_head_up_to_date(folder)
            return zoo
        if init is not None:
            write_tensors(folder / INIT_NAME, {"init": init})
        write_head(folder, layout, recipe)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Zoo":
        """Open a zoo. A torn last line of the manifest (a writer was killed) is not an item.

        Raises:
            ZooError: there is none, it is of a newer version, or its manifest is damaged.
        """
        folder = Path(folder)
        layout, recipe = read_head(folder)
        return cls(folder, layout, recipe, *read_records(folder))

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

        Its card is the folder's ``README.md``. Where there is none, `lorasynth.zoo.card.write_card` writes one.

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
        from lorasynth.zoo.card import write_card

        if faults := self.verify():
            raise ZooError(
                f"{self.folder}: expected a sound zoo to publish, got {len(faults)} faults ({faults[0]}); run "
                "`lorasynth zoo repair`"
            )
        write_card(self.folder, self.layout, self.recipe, self.items)
        return publish(self.folder, repo_id, "dataset", FILES, private=private, api=api)

    def init(self) -> Float[Tensor, " P"]:
        """The shared initialisation that every LoRA of the zoo was trained from.

        Raises:
            ZooError: there was none.
            ModelError: its file cannot be read, or is of another layout.
        """
        return read_init(self.folder, self.layout)

    def append(
        self,
        shard: str | None,
        persons: list[int],
        splits: list[str],
        vectors: Float[Tensor, "n P"],
        embeddings: Float[Tensor, "n J D"],
        source: str,
        licence: str,
        *,
        ids: list[str] | None = None,
        relative_errors: list[float] | None = None,
        marks: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        """Write one shard and then its records. Several processes may append different shards at once.

        Args:
            shard: its name; None for the next that is free.
            persons: who each LoRA is of.
            splits: "train", "validation" or "held_out" of each; the same for all LoRAs of a person.
            vectors: the LoRAs.
            embeddings: J of each.
            source: where they come from.
            licence: what they may be used for.
            ids: of the items; by default one a person.
            relative_errors: of ΔW, from bringing each to the layout's rank; 0 by default.
            marks: what each one's header says of the person: "synthetic", "consent"; nothing by default.

        Raises:
            ZooError: a LoRA is not finite, the shard or an item stands in the zoo already, or is of somebody who was forgotten;
                nothing was written.
            UsageError: the disk is full, or the zoo cannot be written.
        """
        rows, faces = vectors.half().cpu().contiguous(), embeddings.half().cpu().contiguous()
        if not rows.isfinite().all():
            raise ZooError(
                f"{shard or self.folder}: a LoRA is not finite; its training diverged, lower the learning rate"
            )
        if not faces.isfinite().all():
            raise ZooError(
                f"{shard or self.folder}: an embedding is not finite; check the encoder, or leave its photo out"
            )
        ids = ids or [f"{self.layout.base}-{person}" for person in persons]
        errors = relative_errors or [0.0] * len(persons)
        said = marks or [{}] * len(persons)
        with locked(self.folder):
            name = self._free_shard(rows, faces) if shard is None else shard
            records = [
                Item(
                    id=ids[i], person=person, split=split, shard=name, row=i, sha256=row_hash(rows[i]), source=source,
                    licence=licence, relative_error=errors[i], embeddings_sha256=row_hash(faces[i]), **said[i],
                )
                for i, (person, split) in enumerate(zip(persons, splits, strict=True))
            ]  # fmt: skip
            self.ledger.require_new(name, records)
            write_tensors(shard_path(self.folder, name), {"vectors": rows, "embeddings": faces})
            self.ledger.append(records)

    def _free_shard(self, rows: Float[Tensor, "n P"], faces: Float[Tensor, "n J D"]) -> str:
        """A name for a new shard: that of one whose writer was killed before its lines, if it holds just these rows."""
        left = self.ledger.free_shard(but_for_files=True)
        return left if holds(self.folder, left, rows, faces) else self.ledger.free_shard()

    @cached_property
    def ledger(self) -> Ledger:
        """What the manifest says by now: ``items`` and ``forgotten`` stay as they were when the zoo was opened."""
        return Ledger(self.folder)

    @cached_property
    def _by_shard(self) -> dict[str, list[Item]]:
        """Items of each shard, so that going through all shards takes no longer than there are items."""
        shards: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            shards[item.shard].append(item)
        return dict(shards)

    @property
    def shard_names(self) -> set[str]:
        """Names that a new shard may not have: those of its shards, and of shards that were deleted."""
        return {i.shard for i in self.items} | {shard for t in self.forgotten for shard in t.shards}

    @property
    def forgotten_persons(self) -> set[int]:
        """Who was taken out, and may not come in again."""
        return {t.forgotten for t in self.forgotten}

    def __len__(self) -> int:
        return len(self.items)

    def load(self, split: str | None = None) -> tuple[list[int], Float[Tensor, "N P"], Float[Tensor, "N J D"]]:
        """Persons, LoRAs and embeddings, in order of person number, in fp32.

        Raises:
            ZooError: there are none, or embeddings of several shapes.
            ModelError: a shard is missing or damaged.
        """
        persons, rows, embeddings = self.open_rows(split)
        return persons, rows[:], embeddings

    def open_rows(self, split: str | None = None) -> tuple[list[int], Rows, Float[Tensor, "N J D"]]:
        """The same, but for the LoRAs, which are read when they are asked for.

        Raises:
            ZooError: there are none, or embeddings of several shapes.
            ModelError: a shard is missing or damaged.
        """
        from lorasynth.zoo.rows import open_rows

        items = sorted((i for i in self.items if split in (None, i.split)), key=lambda i: i.person)
        if not items:
            held = Counter(item.split for item in self.items)
            got = ", ".join(f"{number} of {name!r}" for name, number in held.items())
            fix = (
                "build or import them first" if split != "held_out" else "give an imported zoo: `zoo build` makes none"
            )
            raise ZooError(f"{self.folder}: expected LoRAs of split {split!r}, got {got or 'none'}; {fix}")
        return [i.person for i in items], *open_rows(self.folder, items, self.layout.num_parameters)

    def rows(self, shard: str) -> list[tuple[str, Float[Tensor, " P"], Float[Tensor, "J D"]]]:
        """Id, LoRA and embeddings of one shard's items, in fp32."""
        from lorasynth.zoo.rows import open_rows

        here = self._by_shard.get(shard, [])
        if not here:
            return []
        rows, embeddings = open_rows(self.folder, here, self.layout.num_parameters)
        return list(zip([item.id for item in here], rows[:], embeddings, strict=True))

    def verify(self) -> list[str]:
        """What is wrong with the zoo as it is on disk now: a sentence each (an empty list is a sound zoo).

        `lorasynth.zoo.verify.verify` says the same for programs.
        """
        return [str(fault) for fault in verify(self.folder).faults]
