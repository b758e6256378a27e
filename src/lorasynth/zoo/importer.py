"""Other people's LoRAs become a zoo: each is taken in once, or set aside with the reason."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.records import Record, difference
from lorasynth.errors import LorasynthError, PhotoError, UsageError, ZooError
from lorasynth.files import write_bytes
from lorasynth.lora.factors import delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.zoo.candidates import Candidate
from lorasynth.zoo.pairs import person_number, split_of_person
from lorasynth.zoo.sizes import Sizes
from lorasynth.zoo.sketch import Seen, Sketcher
from lorasynth.zoo.store import Zoo

REPORT_NAME = "import.jsonl"
KINDS = ("imported", "present", "duplicate", "forgotten", "refused")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one LoRA.

    Attributes:
        file: the LoRA.
        outcome: "imported", "present" (from an earlier run), "duplicate" (of another's update), "forgotten" (it, or its person,
            was taken out of the zoo and stays out) or "refused".
        id: of the item in the zoo.
        reason: why it was refused, in words.
        code: why it was refused, as programs know it: "no-face", "several-faces", "lora-file", ... (`lorasynth.errors`).
        relative_error: of ΔW, where the rank had to be lowered.
        warnings: why the embedding may be worse than others: photos that were left out, blur, somebody else among them.
    """

    file: str
    outcome: str
    id: str = ""
    reason: str = ""
    code: str = ""
    relative_error: float = 0.0
    warnings: tuple[str, ...] = ()


def import_zoo(
    candidates: Sequence[Candidate],
    folder: str | Path,
    layout: Layout,
    *,
    licence: str,
    encoder: Record | None = None,
    validation: float = 0.05,
    held_out: float = 0.05,
    allow_zero: bool = False,
    shard_size: int = 256,
    report: Callable[[str], None] = print,
) -> tuple[Zoo, list[Outcome]]:
    """Take LoRAs into a zoo. The same call again goes on where it was stopped, and takes in what is new.

    Memory holds one shard, whatever the number of LoRAs. What became of each is written to ``import.jsonl`` in the folder.

    Args:
        candidates: `candidates_of` files, or `lorasynth.zoo.w2w.candidates_of` weights2weights' rows.
        folder: the zoo's.
        layout: that all are brought to.
        licence: what they may be used for; kept with every item.
        encoder: the record of the encoder that all embeddings are by, kept in the zoo's recipe; None where nobody says which.
        validation: part of the people to choose settings by.
        held_out: part of the people that nothing is to be fitted on.
        allow_zero: whether an update that does nothing is taken in.
        shard_size: items in one file.
        report: gets a line a shard.

    Returns:
        The zoo, and what became of each candidate.

    Raises:
        UsageError: a part of the people outside 0 to 1.
        ZooError: another zoo is there, one with another encoder's embeddings, or not one LoRA could be used.
    """
    if min(validation, held_out) < 0 or validation + held_out >= 1:
        raise UsageError(f"expected parts of the people that leave some to learn from, got {validation} and {held_out}")
    recipe: dict[str, Any] = {"source": "import", "validation": validation, "held_out": held_out}
    if (kept := _same_encoder(Path(folder), encoder)) is not None:
        recipe["encoder"] = kept
    zoo = Zoo.create(folder, layout, recipe, None)
    forgotten = {id for tombstone in zoo.forgotten for id in tombstone.ids}
    known = _Known(Sketcher(layout), Seen(), Sizes(), {item.id for item in zoo.items}, forgotten, zoo.forgotten_persons)
    dim = 0 if encoder is None else int(encoder["dim"])  # else the first embedding decides
    for shard in sorted({item.shard for item in zoo.items}):
        for id, vector, embedding in zoo.rows(shard):
            known.add(id, known.sketcher(vector[None])[0], _size(layout, vector))
            dim = embedding.shape[-1]
    outcomes: list[Outcome] = []
    number = 1 + max((int(name.rpartition("-")[2].partition(".")[0]) for name in zoo.shard_names), default=-1)
    for batch in _batches(_taken(candidates, layout, known, outcomes, dim, allow_zero), shard_size):
        persons = [item.person for item in batch]
        zoo.append(
            f"shard-{number:05d}", persons, [split_of_person(p, validation, held_out) for p in persons],
            torch.stack([item.vector for item in batch]), torch.stack([item.face for item in batch])[:, None],
            "import", licence, ids=[item.id for item in batch], relative_errors=[item.error for item in batch],
        )  # fmt: skip
        number += 1
        refused = sum(o.outcome == "refused" for o in outcomes)
        report(f"{len(outcomes)} of {len(candidates)} LoRAs looked at, {refused} refused")
    lines = "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
    write_bytes(zoo.folder / REPORT_NAME, lines.encode())
    zoo = Zoo.open(zoo.folder)
    if not zoo.items and not zoo.forgotten:
        (zoo.folder / "zoo.json").unlink()  # so that another encoder, say, can be tried; the report stays
        first = next(o for o in outcomes if o.outcome == "refused").reason if outcomes else "there were none"
        raise ZooError(f"{folder}: expected LoRAs to take in, got none that can be used; the first: {first}")
    return zoo, outcomes


def _same_encoder(folder: Path, encoder: Record | None) -> Record | None:
    """The record that the zoo in a folder keeps, or shall keep, of its encoder."""
    if not (folder / "zoo.json").exists():
        return encoder
    recipe = Zoo.open(folder).recipe
    kept: Record | None = recipe.get("encoder")
    if recipe.get("source") != "import":
        return encoder  # another kind of zoo, which is refused as a whole
    if kept is None and encoder is not None:
        raise ZooError(
            f"{folder}: its embeddings' encoder was not named, got embeddings of {encoder['name']!r}; choose another folder"
        )
    if kept is not None and encoder is None:
        raise ZooError(
            f"{folder}: expected embeddings of encoder {kept['name']!r}, got some of an encoder that is not named; give "
            "--encoder, or choose another folder"
        )
    if kept is not None and encoder is not None and (words := difference(kept, encoder)):
        raise ZooError(f"{folder}: {words}, or choose another folder")
    return kept


@dataclass(frozen=True)
class _Taken:
    id: str
    person: int
    vector: Float[Tensor, " P"]
    face: Float[Tensor, " D"]
    error: float


@dataclass(frozen=True)
class _Known:
    """What the zoo holds, to hold another LoRA against."""

    sketcher: Sketcher
    seen: Seen
    sizes: Sizes
    ids: set[str]
    forgotten_ids: set[str]
    forgotten_persons: set[int]

    def add(self, id: str, sketch: Float[Tensor, " K"], size: float) -> None:
        self.seen.add(id, sketch)
        self.sizes.add(size)
        self.ids.add(id)


def _size(layout: Layout, vector: Float[Tensor, " P"]) -> float:
    return float(delta_W_norm2(layout, vector[None].double())) ** 0.5


def _taken(
    candidates: Sequence[Candidate],
    layout: Layout,
    known: _Known,
    outcomes: list[Outcome],
    dim: int,
    allow_zero: bool,
) -> Iterator[_Taken]:
    """Those that belong into the zoo; notes what became of all."""
    for candidate in candidates:
        name = candidate.name
        try:
            if person_number(candidate.person) in known.forgotten_persons:
                outcomes.append(Outcome(file=name, outcome="forgotten"))
                continue
            id = candidate.id()
            if id in known.forgotten_ids:
                outcomes.append(Outcome(file=name, outcome="forgotten"))
                continue
            if id in known.ids:
                outcomes.append(Outcome(file=name, outcome="present", id=id))
                continue
            vector, error = candidate.vector()
            if not torch.isfinite(vector).all() or vector.abs().max() > torch.finfo(torch.float16).max:
                raise ZooError(f"{name}: expected weights that fit float16, got {vector.abs().max():.3g}")
            sketch, size = known.sketcher(vector[None])[0], _size(layout, vector)
            if size == 0 and not allow_zero:
                raise ZooError(
                    f"{name}: expected an update, got zero everywhere; check its training, or give --allow-zero"
                )
            if problem := known.sizes.problem(size):
                raise ZooError(f"{name}: {problem}")
            if twin := known.seen.twin(sketch):
                outcomes.append(Outcome(file=name, outcome="duplicate", id=twin))
                continue
            reading = candidate.face()
            face = reading.embedding
            dim = dim or len(face)
            if len(face) != dim:
                raise PhotoError(f"{name}: expected an embedding of {dim} numbers as the others, got {len(face)}")
        except (LorasynthError, OSError) as found:
            code = found.code if isinstance(found, LorasynthError) else "os"
            outcomes.append(Outcome(file=name, outcome="refused", reason=str(found), code=code))
            continue
        known.add(id, sketch, size)
        outcomes.append(Outcome(file=name, outcome="imported", id=id, relative_error=error, warnings=reading.warnings))
        yield _Taken(id, person_number(candidate.person), vector, face, error)


def _batches(items: Iterator[_Taken], size: int) -> Iterator[list[_Taken]]:
    batch: list[_Taken] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
