"""Several encoders as one, their embeddings side by side: what a face recogniser leaves out, another may see."""

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lorasynth.encoders.images import Photo
from lorasynth.encoders.protocol import Encoder, Reading, read_all
from lorasynth.encoders.records import Record
from lorasynth.errors import UsageError

JOIN = "+"
"""Between the names of encoders that are joined."""


class JoinedEncoder:
    """Embeddings of several encoders, of equal norms. A cosine is the mean of the encoders' cosines."""

    opens_photos = True
    """`read` takes files' names, bytes, arrays and images alike."""

    def __init__(self, parts: Sequence[Encoder]):
        """Join encoders, in the order of their numbers in an embedding.

        Raises:
            UsageError: there is one alone, or one comes twice.
        """
        names = [str(part.record["name"]) for part in parts]
        if len(parts) < 2 or len({str(part.record) for part in parts}) < len(parts):
            raise UsageError(f"expected two or more encoders to join, each once, got {f' {JOIN} '.join(names)}")
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        """In a line."""
        return f"JoinedEncoder({list(self.parts)!r})"

    @property
    def dim(self) -> int:
        """D, the sum of the encoders'."""
        return sum(part.dim for part in self.parts)

    @property
    def image_size(self) -> int:
        """S, the largest of the encoders'."""
        return max(part.image_size for part in self.parts)

    @cached_property
    def record(self) -> Record:
        """Which encoders these are: each one's files and input, by its place."""
        records = [part.record for part in self.parts]
        places = [*enumerate(records, 1)]
        return {
            "kind": "joined", "name": f" {JOIN} ".join(str(r["name"]) for r in records), "dim": self.dim,
            "files": {f"{place} {role}": sha for place, r in places for role, sha in r["files"].items()},
            "input": {f"{place} {r['kind']}": r["input"] for place, r in places},
            "detector": next((r["detector"] for r in records if r.get("detector")), None),
            "licence": "; ".join(dict.fromkeys(str(r["licence"]) for r in records)),
        }  # fmt: skip

    def read(self, photos: Sequence[Photo]) -> list[Reading]:
        """Unit embeddings of photos. A photo has to be one that every encoder can embed.

        Raises:
            PhotoError: it is not, by its name.
        """
        return [
            self._joined(readings) for readings in zip(*(read_all(part, photos) for part in self.parts), strict=True)
        ]

    def embed(self, photos: Sequence[Photo]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            PhotoError: a photo cannot be embedded, by its name.
        """
        readings = self.read(photos)
        return torch.stack([reading.embedding for reading in readings]) if readings else torch.zeros(0, self.dim)

    def _joined(self, readings: Sequence[Reading]) -> Reading:
        """One reading, of the quality that the first encoder to measure it says."""
        return Reading(
            embedding=F.normalize(torch.cat([reading.embedding for reading in readings]), dim=0),
            quality=next((reading.quality for reading in readings if reading.quality is not None), None),
            notes=tuple(dict.fromkeys(note for reading in readings for note in reading.notes)),
            warnings=tuple(dict.fromkeys(word for reading in readings for word in reading.warnings)),
        )
