"""LoRA files and the faces beside them, each brought to one layout and rank when it is asked for."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.encoders.embeddings import ENDINGS, read_embedding
from lorasynth.encoders.images import open_photo
from lorasynth.encoders.protocol import Encoder, Reading, pool_readings
from lorasynth.errors import LayoutError, PhotoError
from lorasynth.lora.container import read_bytes
from lorasynth.lora.factors import LoRA
from lorasynth.lora.formats.peft import CONFIG_NAME, WEIGHTS_NAME
from lorasynth.lora.layout import Layout
from lorasynth.zoo.pairs import Entry


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


def candidates_of(
    entries: Sequence[Entry],
    layout: Layout,
    encoder: Encoder | None = None,
    *,
    unet_only: bool = False,
    base: str | None = None,
) -> list[Candidate]:
    """Files and PEFT folders, to be brought to a layout; an encoder is needed where a face is a photo.

    ``unet_only`` and ``base`` are `LoRA.load`'s: leave text encoders' parts out, and which base they are for whatever they say.
    """

    def candidate(entry: Entry) -> Candidate:
        return Candidate(
            name=str(entry.lora),
            person=entry.person,
            id=lambda: _content_id(entry.lora),
            vector=lambda: bring_to(LoRA.load(entry.lora, unet_only=unet_only, base=base), layout),
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
            replace(m, rank=ranks.get(m.name, m.rank))
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
