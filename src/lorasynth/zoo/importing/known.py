"""What a zoo holds: who is in it, who was forgotten, which updates, of which sizes."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.lora.layout import Layout
from lorasynth.zoo.importing.duplicates import Seen, Sketcher
from lorasynth.zoo.importing.outliers import Sizes
from lorasynth.zoo.store import Zoo


@dataclass
class Known:
    """What the zoo holds, to hold another LoRA against."""

    layout: Layout
    sketcher: Sketcher
    forgotten_ids: set[str]
    forgotten_persons: set[int]
    seen: Seen = field(default_factory=Seen)
    sizes: Sizes = field(default_factory=Sizes)
    person_of: dict[str, int] = field(default_factory=dict)  # by id
    ids_of: dict[int, str] = field(default_factory=dict)  # the first of each person's
    dim: int = 0  # of embeddings; 0 while there is none

    @classmethod
    def of(cls, zoo: Zoo) -> "Known":
        """What a zoo holds by now. Every LoRA of it is read once."""
        forgotten = {id for tombstone in zoo.forgotten for id in tombstone.ids}
        known = cls(zoo.layout, Sketcher(zoo.layout), forgotten, zoo.forgotten_persons)
        persons = {item.id: item.person for item in zoo.items}
        for shard in sorted({item.shard for item in zoo.items}):
            rows = zoo.rows(shard)
            vectors = torch.stack([vector for _, vector, _ in rows])
            of_each = zip(rows, known.sketcher(vectors), known.sketcher.sizes(vectors), strict=True)
            for (id, _, embedding), sketch, size in of_each:
                known.add(id, persons[id], sketch, size, embedding.shape[-1])
        return known

    def add(self, id: str, person: int, sketch: Float[Tensor, " K"], size: float, dim: int) -> None:
        """Remember one that is taken in."""
        self.seen.add(id, sketch)
        self.sizes.add(size)
        self.person_of[id] = person
        self.ids_of.setdefault(person, id)
        self.dim = dim

    def warnings(self, id: str, person: int) -> tuple[str, ...]:
        """What to say of a LoRA that is in the zoo as another person's."""
        other = self.person_of[id]
        return () if other == person else (f"is in the zoo as person {other}'s: item {id}",)
