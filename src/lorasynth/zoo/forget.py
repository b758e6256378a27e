"""Taking a person out of a zoo for good: their LoRAs and embeddings leave every file, and a tombstone keeps them out."""

import os
from dataclasses import dataclass
from pathlib import Path

from lorasynth.errors import ZooError
from lorasynth.gallery.gallery import person_number
from lorasynth.storage.cards import CARD, PICTURES, without_gallery
from lorasynth.storage.files import write_bytes
from lorasynth.storage.reading import read_text
from lorasynth.workers.locks import locked
from lorasynth.zoo.importing.outcomes import forget_outcomes
from lorasynth.zoo.manifest import Tombstone
from lorasynth.zoo.report import LEFTOVER
from lorasynth.zoo.rewrite import PREPARED_NAME, QUARANTINE_NAME, delete, keep_only, refused, require_own, stray_shards
from lorasynth.zoo.verify import require_zoo, verify


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was forgotten.

    Attributes:
        person: who.
        ids: of the items that went, now or in an earlier call.
        items: how many the zoo has now.
        rewritten: shards that were written anew without them, by their old names.
        deleted: files that are gone: the old shards, what killed writers left, all of the quarantine and the card's pictures.
    """

    person: int
    ids: list[str]
    items: int
    rewritten: list[str]
    deleted: list[str]


def forget_person(folder: str | Path, person: int | str) -> Forgotten:
    """Take all items of a person out of a zoo, and keep the person out: building and importing pass them over from now on.

    Their rows are in no file of the folder any more: shards that held some are written anew without them. Quarantine and the
    card's pictures, where nobody knows what is whose, are emptied, and what was computed of photographs. The manifest keeps a
    tombstone: the person's number and the ids of their items. Killed at any moment, the same call again finishes. A
    `repair_zoo` in between leaves a sound zoo, but does not finish it.

    NOTE: what learned from the zoo before still knows what it learned, and so do copies of it. The free space of a disk is the
    system's to overwrite.

    Args:
        folder: the zoo's. No other writer may be at work; those that append wait.
        person: their number, or the name that they were imported by (`lorasynth.gallery.gallery.person_number`).

    Raises:
        ZooError: nothing in the zoo is of that person, or the zoo is damaged, so that nobody can say what is.
        UsageError: the folder cannot be written.
    """
    folder = require_zoo(folder)
    said = str(person)
    if isinstance(person, str):
        said, person = f"{person!a:.80} (number {person_number(person)})", person_number(person)
    with locked(folder), refused(folder):
        require_own(folder / QUARANTINE_NAME)
        require_own(folder / PREPARED_NAME)
        require_own(folder / PICTURES)
        report = verify(folder)
        if faults := [fault for fault in report.faults if fault.code not in LEFTOVER]:
            raise ZooError(
                f"{folder}: expected a sound zoo to take somebody out of, got {len(faults)} faults ({faults[0]}); run "
                "`lorasynth zoo repair` first"
            )
        theirs = [item.id for item in report.items if item.person == person]
        before = [id for tombstone in report.forgotten if tombstone.forgotten == person for id in tombstone.ids]
        if not theirs and person not in {tombstone.forgotten for tombstone in report.forgotten}:
            raise ZooError(
                f"{folder}: expected a person of the zoo, got {said}, of whom nothing is there; see manifest.jsonl"
            )
        kept = {item.id for item in report.items} - set(theirs)
        rewritten: list[str] = []
        if theirs:
            rewritten = keep_only(folder, report, kept, Tombstone(forgotten=person, ids=theirs, shards=[]))
        # From here on the person is not in the zoo; what follows takes their bytes out of the folder.
        deleted = delete([*stray_shards(folder), *report.leftovers])
        deleted += _empty(folder / QUARANTINE_NAME)
        deleted += _empty(folder / PREPARED_NAME)  # is computed again, without them
        deleted += _empty_gallery(folder)
        forget_outcomes(folder, person, {*before, *theirs})
        return Forgotten(
            person=person, ids=[*before, *theirs], items=len(kept), rewritten=rewritten, deleted=deleted
        )  # fmt: skip


def _empty_gallery(folder: Path) -> list[str]:
    """Delete the pictures of a zoo's card, for nobody knows whom they show."""
    card = folder / CARD
    if card.exists() and (folder / PICTURES).exists():
        write_bytes(card, without_gallery(read_text(card)).encode())
    return _empty(folder / PICTURES)


def _empty(quarantine: Path) -> list[str]:
    """Delete all of a folder, and whatever else has its name."""
    if not os.path.lexists(quarantine):
        return []
    names = [quarantine.name]
    if os.path.isdir(quarantine):
        names = sorted(f"{quarantine.name}/{name}" for name in os.listdir(quarantine))
    delete([quarantine])
    return names
