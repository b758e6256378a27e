"""LoRA files and the faces beside them, each brought to one layout and rank when it is asked for."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.encoders.embeddings import ENDINGS, read_embedding
from lorasynth.encoders.protocol import Encoder, Reading, pool_readings, read_all
from lorasynth.encoders.remarks import Remark
from lorasynth.errors import LayoutError, PhotoError
from lorasynth.lora.factors import LoRA, delta_W_norm2
from lorasynth.lora.gate import Raw, read_raw
from lorasynth.lora.layout import Layout
from lorasynth.lora.text_encoders import text_encoder_keys
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.header import parse_header
from lorasynth.zoo.importing.pairing import Entry, person_number

MARKS = ("synthetic", "consent")
"""What a LoRA's header says of the person, as ``lorasynth.synthetic`` and ``lorasynth.consent``: a zoo keeps it."""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """A LoRA in the zoo's layout, and what bringing it there cost.

    Attributes:
        vector: in that layout.
        error: ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules that the file has for the image model.
        left_out: the part of ``‖ΔW‖²`` in modules that the layout lacks.
        notes: what else of the file was left out, in words.
        marks: what its header says of the person, by the names in `MARKS`.
    """

    vector: Float[Tensor, " P"]
    error: float = 0.0
    left_out: float = 0.0
    notes: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a LoRA's file held when it was read: its id in the zoo, the same in every run, and the LoRA, of the same bytes."""

    id: str
    brought: Callable[[], Brought]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One LoRA that may come in. What it holds is read when asked for, so that a list of them weighs nothing.

    Attributes:
        name: what to call it in a report.
        person: of whom.
        read: reads it, once.
        face: the person's unit embedding, with what is to be said of the photos.
        by_name: whether files' names alone say of whom it is.
        rivals: read the ids of all LoRAs of that name, where there are several and nobody says whether they are of one person.
    """

    name: str
    person: str
    read: Callable[[], Content]
    face: Callable[[], Reading]
    by_name: bool = False
    rivals: tuple[Callable[[], str], ...] = ()

    def id(self) -> str:
        """What it is called in the zoo."""
        return self.read().id

    def vector(self) -> tuple[Float[Tensor, " P"], float]:
        """The LoRA in the zoo's layout, and the relative error that bringing it there made."""
        brought = self.read().brought()
        return brought.vector, brought.error


def candidates_of(
    entries: Sequence[Entry],
    layout: Layout,
    encoder: Encoder | None = None,
    *,
    unet_only: bool = True,
    base: str | None = None,
) -> list[Candidate]:
    """Files and PEFT folders, to be brought to a layout. An encoder is needed where a face is a photo.

    Modules that the layout lacks are left out, and the part of the update that they are is said.

    Args:
        entries: whose LoRAs they are.
        layout: that all are brought to.
        encoder: of photos.
        unet_only: leave text encoders' parts out, with a note; otherwise a LoRA with such a part is refused.
        base: which base model they are for, whatever they say.
    """

    def candidate(entry: Entry) -> Candidate:
        return Candidate(
            name=str(entry.lora),
            person=entry.person,
            read=lambda: _read_lora(entry.lora, layout, unet_only, base),
            face=lambda: _face(entry, encoder),
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


def _read_lora(path: Path, layout: Layout, unet_only: bool, base: str | None) -> Content:
    raw = read_raw(path)

    def brought() -> Brought:
        lora = LoRA.load(path, unet_only=unet_only, base=base, raw=raw)
        vector, error = bring_to(lora, layout, leave_out=True)
        text = len(text_encoder_keys(parse_header(raw[0])[0])) if unet_only else 0
        return Brought(
            vector=vector,
            error=error,
            left_out=share_left_out(lora, layout),
            notes=(f"{text} tensors of text encoders left out",) * bool(text),
            marks={name: value for name in MARKS if (value := printable(lora.metadata.get(f"lorasynth.{name}", "")))},
        )

    return Content(id=content_id(raw), brought=brought)


def share_left_out(lora: LoRA, layout: Layout) -> float:
    """The part of ``‖ΔW‖²`` in modules that a layout lacks; 0 of a LoRA that does nothing."""
    names = {m.name for m in layout.modules}
    others = [m for m in lora.layout.modules if m.name not in names]
    if not others or not (whole := lora.norm()):
        return 0.0
    rest = Layout(base=lora.layout.base, modules=tuple(others))
    factors = lora.layout.split(lora.vector[None])
    vector = rest.join({m.name: factors[m.name] for m in others})
    return float(delta_W_norm2(rest, vector.double())) / whole**2


def bring_to(lora: LoRA, layout: Layout, *, leave_out: bool = False) -> tuple[Float[Tensor, " P"], float]:
    """A LoRA's vector in a layout of the same modules and another rank.

    A higher rank is reached with zeros. A lower one by the leading singular directions of each update, which is the nearest
    update of that rank (Eckart & Young, 1936).

    Args:
        lora: which.
        layout: of the vector.
        leave_out: take a LoRA of more modules, too; what they do is part of the error.

    Returns:
        The vector, and the relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules.

    Raises:
        LayoutError: the modules are not the layout's, or the LoRA says that it is for another base.
    """
    if lora.layout.base not in ("", layout.base):
        raise LayoutError(
            f"expected a LoRA for {layout.base!r}, got one for {lora.layout.base!r}; import it into a zoo of its own"
        )
    if lora.layout.modules == layout.modules:
        return lora.vector, 0.0
    ranks = {m.name: m.rank for m in layout.modules}
    share = share_left_out(lora, layout) if leave_out else 0.0
    lost = share * lora.norm() ** 2 if share else 0.0
    same_rank = Layout(
        base=layout.base,
        modules=tuple(
            replace(m, rank=ranks.get(m.name, m.rank))
            for m in lora.layout.modules
            if ranks.get(m.name, m.rank) <= min(m.in_features, m.out_features) and (m.name in ranks or not leave_out)
        ),
    )
    if differences := layout.diff(same_rank):
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise LayoutError(
            f"expected the {len(layout.modules)} modules of layout {layout.base!r}, got {len(lora.layout.modules)}: "
            f"{'; '.join(differences[:3])}{more}"
        )
    factors = {}
    for name, (A, B) in lora.layout.split(lora.vector[None]).items():
        if name not in ranks:
            continue
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
