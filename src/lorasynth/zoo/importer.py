"""Other people's LoRAs become a zoo: each through the gate, brought to one layout and rank, or set aside with the reason."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.encoders.embeddings import ENDINGS, read_embedding
from lorasynth.encoders.images import open_photo
from lorasynth.encoders.protocol import Encoder, Reading, pool_readings
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import LayoutError, LorasynthError, PhotoError, UsageError, ZooError
from lorasynth.files import write_bytes
from lorasynth.lora.container import read_bytes
from lorasynth.lora.factors import LoRA
from lorasynth.lora.formats.peft import CONFIG_NAME, WEIGHTS_NAME
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo.pairs import Entry, person_number, split_of_person
from lorasynth.zoo.sketch import Seen, Sketcher
from lorasynth.zoo.store import Zoo

REPORT_NAME = "import.jsonl"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One LoRA that may come in. What it holds is read when asked for, so that a list of them weighs nothing.

    Attributes:
        name: what to call it in a report.
        person: of whom.
        id: what it is called in the zoo, the same in every run.
        vector: the LoRA in the zoo's layout, and the relative error that bringing it there made.
        face: the person's unit embedding, with what is to be said of the photos.
    """

    name: str
    person: str
    id: Callable[[], str]
    vector: Callable[[], tuple[Float[Tensor, " P"], float]]
    face: Callable[[], Reading]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one LoRA: "imported", "present" (from an earlier run), "duplicate" (of another's update) or "refused".

    Attributes:
        file: the LoRA.
        outcome: one of the four.
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
    sketcher, seen, have = Sketcher(layout), Seen(), {item.id for item in zoo.items}
    dim = 0 if encoder is None else int(encoder["dim"])  # else the first embedding decides
    for shard in sorted({item.shard for item in zoo.items}):
        for id, vector, embedding in zoo.rows(shard):
            seen.add(id, sketcher(vector[None])[0])
            dim = embedding.shape[-1]
    outcomes: list[Outcome] = []
    number = 1 + max((int(item.shard.rpartition("-")[2]) for item in zoo.items), default=-1)
    for batch in _batches(_taken(candidates, sketcher, seen, have, outcomes, dim), shard_size):
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
    if not zoo.items:
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


def _taken(
    candidates: Sequence[Candidate], sketcher: Sketcher, seen: Seen, have: set[str], outcomes: list[Outcome], dim: int
) -> Iterator[_Taken]:
    """Those that belong into the zoo; notes what became of all."""
    for candidate in candidates:
        name = candidate.name
        try:
            id = candidate.id()
            if id in have:
                outcomes.append(Outcome(file=name, outcome="present", id=id))
                continue
            vector, error = candidate.vector()
            if not torch.isfinite(vector).all() or vector.abs().max() > torch.finfo(torch.float16).max:
                raise ZooError(f"{name}: expected weights that fit float16, got {vector.abs().max():.3g}")
            sketch = sketcher(vector[None])[0]
            if not sketch.any():
                raise ZooError(f"{name}: expected an update, got zero everywhere; check its training")
            if twin := seen.twin(sketch):
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
        seen.add(id, sketch)
        have.add(id)
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


def candidates_of(entries: Sequence[Entry], layout: Layout, encoder: Encoder | None = None) -> list[Candidate]:
    """Files and PEFT folders, to be brought to a layout; an encoder is needed where a face is a photo."""

    def candidate(entry: Entry) -> Candidate:
        return Candidate(
            name=str(entry.lora),
            person=entry.person,
            id=lambda: _content_id(entry.lora),
            vector=lambda: bring_to(LoRA.load(entry.lora), layout),
            face=lambda: _face(entry, encoder),
        )

    return [candidate(entry) for entry in entries]


def bring_to(lora: LoRA, layout: Layout) -> tuple[Float[Tensor, " P"], float]:
    """A LoRA's vector in a layout of the same modules and another rank.

    A higher rank is reached with zeros; a lower one by the leading singular directions of each update, which is the nearest
    update of that rank (Eckart & Young, 1936).

    Returns:
        The vector, and the relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules.

    Raises:
        LayoutError: the modules are not the layout's, or the LoRA says that it is for another base.
    """
    if lora.layout.base not in ("", layout.base):
        raise LayoutError(
            f"expected a LoRA for {layout.base!r}, got one for {lora.layout.base!r}; import it into a zoo of its own"
        )
    ranks = {m.name: m.rank for m in layout.modules}
    same_rank = Layout(
        base=layout.base,
        modules=tuple(
            Module(name=m.name, in_features=m.in_features, out_features=m.out_features, rank=ranks.get(m.name, m.rank))
            for m in lora.layout.modules
            if ranks.get(m.name, m.rank) <= min(m.in_features, m.out_features)
        ),
    )
    if differences := layout.diff(same_rank):
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise LayoutError(
            f"expected the {len(layout.modules)} modules of layout {layout.base!r}, got {len(lora.layout.modules)}: "
            f"{'; '.join(differences[:3])}{more}"
        )
    factors, lost = {}, 0.0
    for name, (A, B) in lora.layout.split(lora.vector[None]).items():
        rank = ranks[name]
        if A.shape[1] > rank:
            A, B, S = canonical_factors(A, B)
            lost += float(S[0, rank:].square().sum())
            A, B = A[:, :rank], B[:, :, :rank]
        missing = rank - A.shape[1]
        factors[name] = (
            torch.nn.functional.pad(A, (0, 0, 0, missing)),
            torch.nn.functional.pad(B, (0, missing)),
        )
    return layout.join(factors)[0], lost**0.5 / lora.norm() if lost else 0.0


def _content_id(lora: Path) -> str:
    """16 hex digits of its files' sha256: the same content under another name is the same item."""
    files = [lora / WEIGHTS_NAME, lora / CONFIG_NAME] if lora.is_dir() else [lora]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(read_bytes(file)).digest())
    return digest.hexdigest()[:16]


def _face(entry: Entry, encoder: Encoder | None) -> Reading:
    """The unit embedding of an entry: its file's, or its photos'. A photo that cannot be used is left out, with a warning."""
    if not entry.faces:
        raise PhotoError(
            f"{entry.lora}: expected an embedding or a photo beside it, got none; add one, or give a table"
        )
    readings: list[tuple[str, Reading]] = []
    refused: list[PhotoError] = []
    for path in entry.faces:
        try:
            readings.append((path.name, _read(path, encoder)))
        except PhotoError as error:
            refused.append(error)
    if not readings:
        several = f"none of {len(entry.faces)} photos can be used; the first: " if len(entry.faces) > 1 else ""
        raise type(refused[0])(f"{several}{refused[0]}")
    person = pool_readings([reading for _, reading in readings], [name for name, _ in readings])
    return replace(person, warnings=(*(f"left out: {error}" for error in refused), *person.warnings))


def _read(path: Path, encoder: Encoder | None) -> Reading:
    """One embedding's file, or one photo."""
    if path.suffix in ENDINGS:
        return Reading(embedding=read_embedding(path), quality=None)
    if encoder is None:
        raise PhotoError(f"{path}: expected an embedding, got a photo and no encoder; name one")
    photo = open_photo(path)
    try:
        (reading,) = encoder.read([photo])
    except PhotoError as error:
        raise type(error)(f"{path}: {error}") from None
    return reading
