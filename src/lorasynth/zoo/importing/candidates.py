"""LoRA files and the faces beside them, each read when it is asked for."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.embeddings import ENDINGS, read_embedding
from lorasynth.encoders.protocol import Encoder, Reading, pool_readings, read_all
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import PhotoError
from lorasynth.lora.configuration import WEIGHTS_NAME
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import Raw, read_raw
from lorasynth.lora.layout import Layout
from lorasynth.lora.text_encoders import text_encoder_keys
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.header import parse_header
from lorasynth.zoo.importing.pairing import Entry, person_number

MARKS = ("synthetic", "consent")
"""What a LoRA's header says of the person, as ``lorasynth.synthetic`` and ``lorasynth.consent``: a zoo keeps it."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A LoRA as its file has it.

    Attributes:
        layout: its own.
        vector: in that layout.
        notes: what else of the file was left out, in words.
        marks: what its header says of the person, by the names in `MARKS`.
    """

    layout: Layout
    vector: Float[Tensor, " P"]
    notes: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a LoRA's file held when it was read: its id in the zoo, the same in every run, and the LoRA, of the same bytes."""

    id: str
    load: Callable[[], Loaded]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One LoRA that may come in. What it holds is read when asked for, so that a list of them weighs nothing.

    Attributes:
        name: what to call it in a report.
        person: of whom.
        read: reads it, once.
        face: the person's unit embedding, with what is to be said of the photos.
        num_bytes: how large it is, about; some candidates are in memory together.
        by_name: whether files' names alone say of whom it is.
        rivals: read the ids of all LoRAs of that name, where there are several and nobody says whether they are of one person.
    """

    name: str
    person: str
    read: Callable[[], Content]
    face: Callable[[], Reading]
    num_bytes: Callable[[], int] = lambda: 0
    by_name: bool = False
    rivals: tuple[Callable[[], str], ...] = ()


def candidates_of(
    entries: Sequence[Entry], encoder: Encoder | None = None, *, base: str | None = None
) -> list[Candidate]:
    """Files and PEFT folders, without text encoders' parts. An encoder is needed where a face is a photo.

    Args:
        entries: whose LoRAs they are.
        encoder: of photos.
        base: which base model they are for, whatever they say.
    """

    def candidate(entry: Entry) -> Candidate:
        return Candidate(
            name=str(entry.lora),
            person=entry.person,
            read=lambda: _read_lora(entry.lora, base),
            face=lambda: _face(entry, encoder),
            num_bytes=lambda: _size_of(entry.lora),
            by_name=entry.by_name,
            rivals=ids_of[person_number(entry.person)] if entry.rivals else (),
        )

    ids_of: dict[int, tuple[Callable[[], str], ...]] = {}
    for entry in entries:
        if entry.rivals and (number := person_number(entry.person)) not in ids_of:
            ids_of[number] = tuple(cache(partial(_id_of, path)) for path in entry.rivals)
    return [candidate(entry) for entry in entries]


def _id_of(lora: Path) -> str:
    return content_id(read_raw(lora))


def content_id(raw: Raw) -> str:
    """16 hex digits of its files' sha256: the same content under another name is the same item."""
    content, beside = raw
    digest = hashlib.sha256()
    for part in (content, *(text.encode() for text in beside.values())):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _read_lora(path: Path, base: str | None) -> Content:
    raw = read_raw(path)

    def load() -> Loaded:
        lora = LoRA.load(path, unet_only=True, base=base, raw=raw)
        text = len(text_encoder_keys(parse_header(raw[0])[0]))
        return Loaded(
            layout=lora.layout,
            vector=lora.vector,
            notes=(f"{text} tensors of text encoders left out",) * bool(text),
            marks={name: value for name in MARKS if (value := printable(lora.metadata.get(f"lorasynth.{name}", "")))},
        )

    return Content(id=content_id(raw), load=load)


def _size_of(path: Path) -> int:
    """Bytes of a LoRA's file, or of a PEFT folder's weights. 0 of what cannot be asked: reading it will say why."""
    try:
        return os.path.getsize(path / WEIGHTS_NAME if os.path.isdir(path) else path)
    except (OSError, ValueError):
        return 0


def _face(entry: Entry, encoder: Encoder | None) -> Reading:
    """The unit embedding of an entry: its file's, or its photos'. A photo that cannot be used is left out, with a warning."""
    if not entry.faces:
        raise PhotoError(
            f"{shown(entry.lora)}: expected an embedding or a photo beside it, got none; add one, or give a table"
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
    return replace(
        person, warnings=(*(Remark(error.code, f"left out: {error}") for error in refused), *person.warnings)
    )


def _read(path: Path, encoder: Encoder | None) -> Reading:
    """One embedding's file, or one photo."""
    if path.suffix.lower() in ENDINGS:
        return Reading(embedding=read_embedding(path), quality=None)
    if encoder is None:
        raise PhotoError(f"{shown(path)}: expected an embedding, got a photo and no encoder; name one with --encoder")
    return read_all(encoder, [path])[0]
