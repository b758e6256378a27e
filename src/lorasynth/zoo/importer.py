"""Other people's LoRAs become a zoo: each through the gate, brought to one layout and rank, or set aside with the reason."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.encoders.images import open_photo, photo_tensor
from lorasynth.errors import LayoutError, LorasynthError, PhotoError, UsageError, ZooError
from lorasynth.files import write_bytes
from lorasynth.lora.container import read_bytes
from lorasynth.lora.factors import LoRA
from lorasynth.lora.formats.peft import CONFIG_NAME, WEIGHTS_NAME
from lorasynth.lora.layout import Layout, Module
from lorasynth.worlds.world import World
from lorasynth.zoo.pairs import EMBEDDINGS, Entry, person_number, split_of_person
from lorasynth.zoo.sketch import Seen, Sketcher
from lorasynth.zoo.store import Zoo

Embed = Callable[[Path], Float[Tensor, " D"]]
"""A photo's unit embedding, or a PhotoError."""
REPORT_NAME = "import.jsonl"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One LoRA that may come in. What it holds is read when asked for, so that a list of them weighs nothing.

    Attributes:
        name: what to call it in a report.
        person: of whom.
        id: what it is called in the zoo, the same in every run.
        vector: the LoRA in the zoo's layout, and the relative error that bringing it there made.
        face: the person's unit embedding.
    """

    name: str
    person: str
    id: Callable[[], str]
    vector: Callable[[], tuple[Float[Tensor, " P"], float]]
    face: Callable[[], Float[Tensor, " D"]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one LoRA: "imported", "present" (from an earlier run), "duplicate" (of another's update) or "refused"."""

    file: str
    outcome: str
    id: str = ""
    reason: str = ""
    relative_error: float = 0.0


def import_zoo(
    candidates: Sequence[Candidate],
    folder: str | Path,
    layout: Layout,
    *,
    licence: str,
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
        validation: part of the people to choose settings by.
        held_out: part of the people that nothing is to be fitted on.
        shard_size: items in one file.
        report: gets a line a shard.

    Returns:
        The zoo, and what became of each candidate.

    Raises:
        UsageError: a part of the people outside 0 to 1.
        ZooError: another zoo is there, or not one LoRA could be used.
    """
    if min(validation, held_out) < 0 or validation + held_out >= 1:
        raise UsageError(f"expected parts of the people that leave some to learn from, got {validation} and {held_out}")
    recipe = {"source": "import", "validation": validation, "held_out": held_out}
    zoo = Zoo.create(folder, layout, recipe, None)
    sketcher, seen, have = Sketcher(layout), Seen(), {item.id for item in zoo.items}
    dim = 0  # of embeddings; the first decides
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
        first = next(o for o in outcomes if o.outcome == "refused").reason if outcomes else "there were none"
        raise ZooError(f"{folder}: expected LoRAs to take in, got none that can be used; the first: {first}")
    return zoo, outcomes


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
            face = candidate.face()
            dim = dim or len(face)
            if len(face) != dim:
                raise PhotoError(f"{name}: expected an embedding of {dim} numbers as the others, got {len(face)}")
        except (LorasynthError, OSError) as error_found:
            outcomes.append(Outcome(file=name, outcome="refused", reason=str(error_found)))
            continue
        seen.add(id, sketch)
        have.add(id)
        outcomes.append(Outcome(file=name, outcome="imported", id=id, relative_error=error))
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


def candidates_of(entries: Sequence[Entry], layout: Layout, embed: Embed | None = None) -> list[Candidate]:
    """Files and PEFT folders, to be brought to a layout; ``embed`` is needed where a face is a photo."""

    def candidate(entry: Entry) -> Candidate:
        return Candidate(
            name=str(entry.lora),
            person=entry.person,
            id=lambda: _content_id(entry.lora),
            vector=lambda: bring_to(LoRA.load(entry.lora), layout),
            face=lambda: _face(entry, embed),
        )

    return [candidate(entry) for entry in entries]


def world_embedder(world: World) -> Embed:
    """Photo files embedded by a drawn world's encoder; what cannot be a photo is refused, another world's pictures are not."""

    def embed(path: Path) -> Float[Tensor, " D"]:
        picture = photo_tensor(open_photo(path), world.picture_size)
        with torch.no_grad():
            return world.encoder(picture[None])[0]

    return embed


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


def _face(entry: Entry, embed: Embed | None) -> Float[Tensor, " D"]:
    """The unit embedding of an entry: its file's, or its photo's."""
    if entry.face is None:
        raise PhotoError(
            f"{entry.lora}: expected an embedding or a photo beside it, got none; add one, or give a table"
        )
    if entry.face.suffix in EMBEDDINGS:
        return _read_embedding(entry.face)
    if embed is None:
        raise PhotoError(f"{entry.face}: expected an embedding, got a photo and no encoder; name one")
    return embed(entry.face)


def _read_embedding(path: Path) -> Float[Tensor, " D"]:
    import numpy as np
    from safetensors.torch import load

    try:
        if path.suffix == ".npy":
            values = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        else:
            (values,) = load(read_bytes(path, max_file_mb=1)).values()
    except (OSError, EOFError, ValueError, SafetensorError) as error:
        raise PhotoError(f"{path}: expected an embedding, one row of numbers, got {error}") from None
    values = values.float().flatten()
    norm = float(values.norm())
    if not 0 < norm < float("inf"):
        raise PhotoError(f"{path}: expected an embedding with a direction, got norm {norm}; make it again")
    return values / norm
