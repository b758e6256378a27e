"""A drawn world's own recogniser as an encoder: whole pictures of that world -> unit vectors. Other pictures are refused."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.drawn.domain_check import DomainCheck
from lorasynth.encoders.images import OpenedPhoto, Photo, photo_tensor
from lorasynth.encoders.protocol import Reading, batched, opened
from lorasynth.encoders.records import Record, encoder_record
from lorasynth.encoders.remarks import Remark
from lorasynth.storage.reading import sha256_file
from lorasynth.worlds.recogniser import Joined

if TYPE_CHECKING:
    from lorasynth.worlds.world import World

LICENCE = "Apache-2.0 (made by lorasynth, from drawings)"
_GUARD_PICTURES = 2000
_BATCH = 32  # photos at once


class WorldEncoder:
    """Photos of a drawn world, as large as they like, embedded by the recogniser that it is conditioned on."""

    opens_photos = True
    """`read` takes files' names, bytes, arrays and images alike."""

    def __init__(self, world: "World", *, guard: DomainCheck | None = None, alone: bool = False):
        """Open a world's recogniser, and the appearance net beside it.

        Args:
            world: whose.
            alone: open the recogniser alone, as models have it that were made before there was an appearance net.
            guard: knows how its pictures look; by default one is fitted to pictures that are drawn for it, in a second or two,
                when it is first needed.

        Raises:
            ModelError: a file cannot be read.
        """
        self.world, self.net = world, world.encoder if alone else world.embedder
        if guard is not None:
            self.guard = guard

    def __repr__(self) -> str:
        """In a line."""
        return f"WorldEncoder({self.world.name!r})"

    @cached_property
    def guard(self) -> DomainCheck:
        """Refuses what is not a picture of this world. Fitted to people that the recogniser has learned from."""
        from lorasynth.worlds.subjects import Role, persons_of

        persons = persons_of(Role.ENCODER, _GUARD_PICTURES)
        return DomainCheck.fit(self.world.draw(persons, [0] * len(persons), self.world.picture_size))

    @cached_property
    def record(self) -> Record:
        """Which encoder this is."""
        return encoder_record(
            kind="world", name=self.world.name, dim=self.dim,
            files=self.files,
            input={"size": self.image_size}, licence=LICENCE,
        )  # fmt: skip

    @cached_property
    def files(self) -> dict[str, str]:
        """The sha256 of each file of weights, by what it is."""
        found = {"recogniser": sha256_file(self.world.encoder_file)}
        if isinstance(self.net, Joined):
            found["appearance"] = sha256_file(self.world.appearance_file)
        return found

    @property
    def dim(self) -> int:
        """D."""
        return self.net.embedding_dim

    @property
    def image_size(self) -> int:
        """S, pixels a side."""
        return self.world.picture_size

    def read(self, photos: Sequence[Photo], *, allow_outside: bool = False) -> list[Reading]:
        """Unit embeddings of the central squares of photos.

        Args:
            photos: files' names, bytes, arrays or images.
            allow_outside: embed pictures that do not look like this world's, too.

        Raises:
            PhotoError: a photo cannot be opened, by its name.
            OutsideWorldError: a photo is not of this world, by its name.
        """
        readings: list[Reading] = []
        for batch in batched((self._prepare(*photo, allow_outside) for photo in opened(photos)), _BATCH):
            with torch.no_grad():
                embeddings = self.net(torch.stack([picture for picture, _ in batch]))
            readings += [
                Reading(embedding=embedding, quality=None, notes=notes)
                for embedding, (_, notes) in zip(embeddings, batch, strict=True)
            ]
        return readings

    def _prepare(
        self, name: str, photo: OpenedPhoto, allow_outside: bool
    ) -> tuple[Float[Tensor, "3 S S"], tuple[Remark, ...]]:
        """What the network takes, and what was unusual about the photo."""
        picture = photo_tensor(photo.image, self.image_size)
        if not allow_outside:
            self.guard.check(name, picture, self.world.name, self.world.domain.about)
        return picture, photo.notes

    def embed(self, photos: Sequence[Photo]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            PhotoError: a photo cannot be opened, by its name.
            OutsideWorldError: a photo is not of this world, by its name.
        """
        readings = self.read(photos)
        return torch.stack([reading.embedding for reading in readings]) if readings else torch.zeros(0, self.dim)
