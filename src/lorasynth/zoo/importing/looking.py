"""Some candidates looked at together: what each file holds, in the zoo's layout, before anybody decides what becomes of it."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.protocol import Reading
from lorasynth.errors import LorasynthError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.storage.faults import printable
from lorasynth.zoo.importing.bringing import bring_all
from lorasynth.zoo.importing.candidates import Candidate, Loaded
from lorasynth.zoo.importing.duplicates import Sketcher
from lorasynth.zoo.importing.pairing import person_number

MOST, MOST_BYTES = 64, 1 << 25
"""How many candidates are looked at together, and how many bytes of their files: what is in memory for one process."""
T = TypeVar("T")


class Refused(LorasynthError):
    """Why a candidate cannot be used, from another process: the words and the code of the error there."""

    def __init__(self, reason: str, code: str):
        super().__init__(reason)
        self.code = code

    def __reduce__(self) -> tuple:
        """Pickled by both."""
        return Refused, (str(self), self.code)


@dataclass(frozen=True)
class Found(Generic[T]):
    """What was asked for, or why there is none."""

    value: T | None = None
    error: Exception | None = None

    @classmethod
    def by(cls, get: Callable[[], T]) -> "Found[T]":
        """What a call gives or raises."""
        try:
            return cls(get())
        except Exception as error:
            return cls(error=error)

    def get(self) -> T:
        """It.

        Raises:
            Exception: there is none.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


@dataclass(frozen=True, kw_only=True)
class Brought:
    """A LoRA in the zoo's layout, and what bringing it there cost.

    Attributes:
        vector: in that layout.
        sketch: its update's (`Sketcher`).
        size: ``‖ΔW‖``.
        error: ``‖ΔW - ΔW'‖ / ‖ΔW‖`` over all modules that the file has for the image model.
        left_out: the part of ``‖ΔW‖²`` in modules that the layout lacks.
        notes: what else of the file was left out, in words.
        marks: what its header says of the person.
    """

    vector: Float[Tensor, " P"]
    sketch: Float[Tensor, " K"]
    size: float
    error: float
    left_out: float
    notes: tuple[str, ...]
    marks: dict[str, str]

    def __reduce__(self) -> tuple:
        """Pickled as numbers: torch would share each tensor's memory by a file of its own."""
        rest = (self.size, self.error, self.left_out, self.notes, self.marks)
        return _brought, (self.vector.cpu().numpy(), self.sketch.cpu().numpy(), *rest)


def _brought(vector: Any, sketch: Any, size: float, error: float, left_out: float, notes: Any, marks: Any) -> Brought:
    return Brought(
        vector=torch.as_tensor(vector), sketch=torch.as_tensor(sketch), size=size, error=error, left_out=left_out,
        notes=notes, marks=marks,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """What reading one candidate gave. ``id`` and ``brought`` are asked for only of those whom nothing rules out before."""

    id: Found[str] = Found()
    brought: Found[Brought] = Found()
    face: Callable[[], Reading]


def in_blocks(candidates: Sequence[Candidate]) -> list[range]:
    """Which candidates are looked at together, in order."""
    blocks: list[range] = []
    first, size = 0, 0
    for n, candidate in enumerate(candidates):
        num_bytes = candidate.num_bytes()
        if n > first and (n - first == MOST or size + num_bytes > MOST_BYTES):
            blocks.append(range(first, n))
            first, size = n, 0
        size += num_bytes
    return [*blocks, range(first, len(candidates))] if candidates else []


class Looker:
    """Looks at candidates.

    Args:
        layout: that LoRAs are brought to.
        known_ids: of LoRAs that need no second look: they are in the zoo, or were taken out of it.
        forgotten_persons: whose files are not opened.
    """

    def __init__(self, layout: Layout, known_ids: Collection[str], forgotten_persons: Collection[int]):
        self.layout, self.sketcher = layout, Sketcher(layout)
        self.known_ids, self.forgotten_persons = known_ids, forgotten_persons

    def __call__(self, candidates: Sequence[Candidate]) -> list[Look]:
        """Look at some. What one of them raises is found at its place."""
        looks = [Look(face=candidate.face) for candidate in candidates]
        loaded: dict[int, Loaded] = {}
        for n, candidate in enumerate(candidates):
            if person_number(candidate.person) in self.forgotten_persons:
                continue
            content = Found.by(candidate.read)
            if content.error is not None:
                looks[n] = replace(looks[n], id=Found(error=content.error))
                continue
            looks[n] = replace(looks[n], id=Found(content.get().id))
            if content.get().id not in self.known_ids:
                one = Found.by(content.get().load)
                looks[n] = replace(looks[n], brought=Found(error=one.error))
                if one.error is None:
                    loaded[n] = one.get()
        for n, brought in self._brought(loaded):
            looks[n] = replace(looks[n], brought=brought)
        return looks

    def _brought(self, loaded: dict[int, Loaded]) -> Iterator[tuple[int, Found[Brought]]]:
        """LoRAs in the zoo's layout, those of one layout at once."""
        alike: dict[Layout, list[int]] = defaultdict(list)
        for n, one in loaded.items():
            alike[one.layout].append(n)
        for given, numbers in alike.items():
            try:
                yield from zip(numbers, self._bring(given, [loaded[n] for n in numbers]), strict=True)
            except Exception:  # one by one: whose fault it is
                for n in numbers:
                    yield n, Found.by(partial(self._one, loaded[n]))

    def _one(self, loaded: Loaded) -> Brought:
        return self._bring(loaded.layout, [loaded])[0].get()

    def _bring(self, given: Layout, loaded: Sequence[Loaded]) -> list[Found[Brought]]:
        vectors, errors, left_out = bring_all(
            given, torch.stack([one.vector for one in loaded]), self.layout, leave_out=True
        )
        sketches, sizes = self.sketcher(vectors), self.sketcher.sizes(vectors)
        return [
            Found(
                Brought(
                    vector=vectors[i], sketch=sketches[i], size=sizes[i], error=errors[i], left_out=left_out[i],
                    notes=one.notes, marks=one.marks,
                )
            )
            for i, one in enumerate(loaded)
        ]  # fmt: skip


def refusal(name: str, error: Exception) -> Refused:
    """Why a candidate cannot be used, in printable words with a code, whatever its error was."""
    if isinstance(error, Refused):
        return error
    reason, code = f"{name}: {type(error).__name__}: {error}", "unexpected"
    if isinstance(error, LorasynthError):
        reason, code = str(error), error.code
    elif isinstance(error, OSError):
        reason, code = str(error), "os"
    return Refused(printable(reason, 1_000), code)


def names_of(candidates: Sequence[Candidate]) -> str:
    """A hash of what candidates are called and of whom they are, in order."""
    return hashlib.sha256("\n".join(f"{c.name}\0{c.person}" for c in candidates).encode(errors="replace")).hexdigest()


def open_looker(
    reopen: Callable[[], Sequence[Candidate]],
    names: str,
    blocks: Sequence[range],
    layout: Layout,
    known_ids: Collection[str],
    forgotten_persons: Collection[int],
) -> Callable[[int], list[Look]]:
    """What a helper process does: it looks at one block of the same candidates, and reads their faces, too.

    Raises:
        ZooError: the candidates are not those of the process that it helps, as a table was changed meanwhile.
    """
    torch.set_num_threads(1)
    candidates, look = reopen(), Looker(layout, known_ids, forgotten_persons)
    if names_of(candidates) != names:
        raise ZooError("expected the same LoRAs as the import has, got others; was a table changed meanwhile?")

    def work(block: int) -> list[Look]:
        here = [candidates[n] for n in blocks[block]]
        return [_sent(candidate, seen) for candidate, seen in zip(here, look(here), strict=True)]

    return work


def _sent(candidate: Candidate, look: Look) -> Look:
    """A look that can be sent to another process: its face read, its errors in words."""

    def words(found: "Found[Any]") -> "Found[Any]":
        return found if found.error is None else Found(error=refusal(candidate.name, found.error))

    face = words(Found.by(candidate.face)) if look.brought.value is not None else Found[Reading]()
    reading = face.value
    if reading is None:
        return Look(id=words(look.id), brought=words(look.brought), face=face.get)
    said = (reading.embedding.cpu().numpy(), reading.quality, reading.notes, reading.warnings)
    return Look(id=words(look.id), brought=words(look.brought), face=partial(_reading, *said))


def _reading(embedding: Any, quality: float | None, notes: tuple[str, ...], warnings: tuple[str, ...]) -> Reading:
    return Reading(embedding=torch.as_tensor(embedding), quality=quality, notes=notes, warnings=warnings)
