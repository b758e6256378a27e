"""Other people's LoRAs become a zoo: each is taken in once, or set aside with the reason."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.records import Record, difference
from lorasynth.errors import LorasynthError, PhotoError, UsageError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.system import lock, require_locks
from lorasynth.workers.ahead import done_ahead
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.zoo.importing.candidates import Candidate
from lorasynth.zoo.importing.finding import PassedOver
from lorasynth.zoo.importing.known import Known
from lorasynth.zoo.importing.looking import Brought, Look, Looker, in_blocks, names_of, open_looker, refusal
from lorasynth.zoo.importing.outcomes import KINDS, REPORT_NAME, Outcome, write_report
from lorasynth.zoo.importing.pairing import person_number, split_of_person
from lorasynth.zoo.store import Zoo

__all__ = ["KINDS", "REPORT_NAME", "Outcome", "import_zoo"]


def import_zoo(
    candidates: Sequence[Candidate],
    folder: str | Path,
    layout: Layout,
    *,
    licence: str,
    others: Sequence[PassedOver] = (),
    encoder: Record | None = None,
    validation: float = 0.05,
    held_out: float = 0.05,
    allow_zero: bool = False,
    shard_size: int = 256,
    workers: int = 1,
    reopen: Callable[[], Sequence[Candidate]] | None = None,
    report: Callable[[str], None] = print,
) -> tuple[Zoo, list[Outcome]]:
    """Take LoRAs into a zoo. The same call again goes on where it was stopped, and takes in what is new.

    Memory holds one shard, whatever the number of LoRAs. What became of each is written to ``import.jsonl`` in the folder: one
    that cannot be used is refused there, whatever is wrong with it, and ends nothing. Of several calls at once for one folder
    each waits for the one before.

    Args:
        candidates: `candidates_of` files, or `lorasynth.zoo.importing.w2w.candidates_of` weights2weights' rows.
        folder: the zoo's.
        layout: that all are brought to.
        licence: what they may be used for; kept with every item.
        others: files that lie beside them, to be named in the report.
        encoder: the record of the encoder that all embeddings are by, kept in the zoo's recipe; None where nobody says which.
        validation: part of the people to choose settings by.
        held_out: part of the people that nothing is to be fitted on.
        allow_zero: whether an update that does nothing is taken in.
        shard_size: items in one file.
        workers: processes of one thread each that read files, this one among them. This one alone decides and writes, so that
            the zoo is the same for any number.
        reopen: gives a worker process the same candidates; to be pickled. Needed for more than one worker.
        report: gets a line a shard.

    Returns:
        The zoo, and what became of each file.

    Raises:
        UsageError: a part of the people outside 0 to 1, no way to reopen the candidates for workers, or a running script that
            workers cannot import.
        ZooError: another zoo is there, one with another encoder's embeddings, or not one LoRA could be used.
    """
    if not (validation >= 0 and held_out >= 0 and validation + held_out < 1):  # nor NaN
        raise UsageError(f"expected parts of the people that leave some to learn from, got {validation} and {held_out}")
    if workers > 1:
        if reopen is None:
            raise UsageError(f"expected a way to reopen the candidates for {workers} workers, got none; give reopen")
        require_main_guard()
    folder = Path(folder)
    with _only_import(folder, report):
        recipe: dict[str, Any] = {"source": "import", "validation": validation, "held_out": held_out}
        if (kept := _same_encoder(folder, encoder)) is not None:
            recipe["encoder"] = kept
        zoo = Zoo.create(folder, layout, recipe, None)
        known = Known.of(zoo)
        outcomes: list[Outcome] = []
        beside = [_passed_over(other, known) for other in others]
        try:
            known.dim = known.dim or (0 if encoder is None else int(encoder["dim"]))
            with _looks(candidates, known, workers, reopen) as looks:
                taken = _taken(candidates, looks, known, outcomes, allow_zero)
                for batch in _batches(taken, shard_size):
                    _append(zoo, batch, licence)
                    refused = sum(o.outcome == "refused" for o in outcomes)
                    report(f"{len(outcomes)} of {len(candidates)} LoRAs looked at, {refused} refused")
        except BaseException:  # stopped, or the disk is full: what was found out by now is kept
            with suppress(LorasynthError, OSError):
                write_report(folder, [*outcomes, *beside], known.forgotten_persons)
            raise
        outcomes += beside
        write_report(folder, outcomes, known.forgotten_persons)
        zoo = Zoo.open(folder)
        if not zoo.items and not zoo.forgotten:
            (folder / "zoo.json").unlink()  # so that another encoder, say, can be tried; the report stays
            first = next((o.reason for o in outcomes if o.outcome == "refused"), "there were none")
            raise ZooError(f"{shown(folder)}: expected LoRAs to take in, got none that can be used; the first: {first}")
        return zoo, outcomes


@contextmanager
def _only_import(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Be the only import into a folder, after another that is at work. The system lets go of it when its process dies.

    NOTE: it locks the folder itself, and beside it every change holds the manifest's lock. Some network file systems lock no
    folders: there two imports may take in one LoRA's twins, and both still finish.
    """
    require_locks()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"{shown(folder)}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        with suppress(OSError):
            try:
                lock(handle, wait=False)
            except BlockingIOError:
                report(f"{shown(folder)}: another import is at work; waiting until it is done")
                lock(handle)
        yield
    finally:
        os.close(handle)


def _append(zoo: Zoo, batch: "list[_Taken]", licence: str) -> None:
    """One shard of LoRAs."""
    validation, held_out = zoo.recipe["validation"], zoo.recipe["held_out"]
    persons = [item.person for item in batch]
    zoo.append(
        None, persons, [split_of_person(p, validation, held_out) for p in persons],
        torch.stack([item.brought.vector for item in batch]), torch.stack([item.face for item in batch])[:, None],
        "import", licence, ids=[item.id for item in batch], relative_errors=[item.brought.error for item in batch],
        marks=[item.brought.marks for item in batch],
    )  # fmt: skip


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
    brought: Brought
    face: Float[Tensor, " D"]


def _passed_over(other: PassedOver, known: Known) -> Outcome:
    """A file that is no candidate, as an outcome: whose it is, if anybody's, its name says."""
    person = person_number(other.file.name.partition(".")[0])
    if person in known.forgotten_persons:
        return Outcome(file=str(other.file), outcome="forgotten", person=person)
    kind = ("refused", "lora-file") if other.refused else ("ignored", "")
    return Outcome(file=str(other.file), outcome=kind[0], person=person, reason=other.reason, code=kind[1])


@contextmanager
def _looks(
    candidates: Sequence[Candidate],
    known: Known,
    workers: int,
    reopen: Callable[[], Sequence[Candidate]] | None,
) -> Iterator[Iterator[Look]]:
    """A look at each candidate, in order, by this process and its helpers, some ahead of what is decided."""
    blocks = in_blocks(candidates)
    passed = (known.layout, known.forgotten_ids | set(known.person_of), known.forgotten_persons)
    look = Looker(*passed)

    def work(block: int) -> list[Look]:
        return look([candidates[n] for n in blocks[block]])

    helpers = min(workers, len(blocks)) - 1
    arguments = (reopen, names_of(candidates), blocks, *passed) if helpers > 0 else ()
    with done_ahead(max(helpers, 0), len(blocks), work, open_looker, *arguments) as done:
        yield (one for block in done for one in block)


def _taken(
    candidates: Sequence[Candidate],
    looks: Iterator[Look],
    known: Known,
    outcomes: list[Outcome],
    allow_zero: bool,
) -> Iterator[_Taken]:
    """Those that belong into the zoo. Notes what became of all. Whatever one of them raises, the others go on."""
    for candidate in candidates:
        person, look = person_number(candidate.person), next(looks)
        try:
            outcome, taken = _decide(candidate, look, person, known, allow_zero)
        except Exception as found:
            why = refusal(candidate.name, found)
            outcome, taken = Outcome(file="", outcome="refused", reason=str(why), code=why.code), None
        outcomes.append(replace(outcome, file=candidate.name, person=person))
        if taken is not None:
            yield taken


def _decide(
    candidate: Candidate, look: Look, person: int, known: Known, allow_zero: bool
) -> tuple[Outcome, _Taken | None]:
    """What becomes of one; and what the zoo gets of it, if anything.

    Raises:
        Exception: whatever reading it raises.
    """

    def passed(outcome: str, id: str = "", warnings: tuple[str, ...] = ()) -> tuple[Outcome, None]:
        return Outcome(file="", outcome=outcome, id=id, warnings=warnings), None

    name = shown(candidate.name)
    if person in known.forgotten_persons:
        return passed("forgotten")
    id = look.id.get()
    if id in known.forgotten_ids:
        return passed("forgotten")
    if id in known.person_of:
        theirs = known.person_of[id] == person
        return passed("present" if theirs else "duplicate", id, known.warnings(id, person))
    _require_one_person(candidate, person, id, known)
    brought = look.brought.get()
    vector, size = brought.vector, brought.size
    if not torch.isfinite(vector).all() or vector.abs().max() > torch.finfo(torch.float16).max:
        raise ZooError(f"{name}: expected weights that fit float16, got {vector.abs().max():.3g}")
    if size == 0 and not allow_zero:
        raise ZooError(f"{name}: expected an update, got zero everywhere; check its training, or give --allow-zero")
    if problem := known.sizes.problem(size):
        raise ZooError(f"{name}: {problem}")
    if twin := known.seen.twin(brought.sketch):
        return passed("duplicate", twin, known.warnings(twin, person))
    reading = look.face()
    if known.dim and len(reading.embedding) != known.dim:
        raise PhotoError(
            f"{name}: expected an embedding of {known.dim} numbers as the others, got {len(reading.embedding)}"
        )
    known.add(id, person, brought.sketch, size, len(reading.embedding))
    outcome = Outcome(
        file="", outcome="imported", id=id, relative_error=brought.error, left_out=brought.left_out,
        notes=brought.notes, warnings=reading.warnings,
    )  # fmt: skip
    return outcome, _Taken(id, person, brought, reading.embedding)


def _require_one_person(candidate: Candidate, person: int, id: str, known: Known) -> None:
    """Refuse a LoRA of which nothing but a name says whose it is, where another LoRA has that name."""
    if not candidate.by_name:
        return
    other = known.ids_of.get(person)
    if other is None and not any(rival() != id for rival in candidate.rivals):
        return
    which = f"item {other} of the zoo has" if other else f"{len(candidate.rivals)} files have"
    raise UsageError(
        f"{shown(candidate.name)}: expected a name that one LoRA has, got {printable(candidate.person)!r}, which {which}; "
        "say in a table (--table) of whom each is"
    )


def _batches(items: Iterator[_Taken], size: int) -> Iterator[list[_Taken]]:
    batch: list[_Taken] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
