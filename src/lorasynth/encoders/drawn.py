"""A drawn world's own recogniser as an encoder: whole pictures of that world -> unit vectors; other pictures are refused."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.encoders.guard import WorldGuard
from lorasynth.encoders.images import photo_tensor
from lorasynth.encoders.protocol import Reading
from lorasynth.encoders.records import Record, encoder_record
from lorasynth.files import sha256_file

if TYPE_CHECKING:
    from lorasynth.worlds.world import World

LICENCE = "Apache-2.0 (made by lorasynth, from drawings)"
_GUARD_PICTURES = 2000


class WorldEncoder:
    """Photos of a drawn world, as large as they like, embedded by the recogniser that it is conditioned on."""

    def __init__(self, world: "World", *, guard: WorldGuard | None = None):
        """Open a world's recogniser.

        Args:
            world: whose.
            guard: knows how its pictures look; by default one is fitted to pictures that are drawn for it, in a second or two,
                when it is first needed.

        Raises:
            ModelError: the recogniser's file cannot be read.
        """
        self.world, self.net = world, world.encoder
        if guard is not None:
            self.guard = guard

    @cached_property
    def guard(self) -> WorldGuard:
        """Refuses what is not a picture of this world; fitted to people that the recogniser has learned from."""
        from lorasynth.worlds.subjects import Role, persons_of

        persons = persons_of(Role.ENCODER, _GUARD_PICTURES)
        return WorldGuard.fit(self.world.draw(persons, [0] * len(persons), self.world.picture_size))

    @cached_property
    def record(self) -> Record:
        """Which encoder this is."""
        return encoder_record(
            kind="world", name=self.world.name, dim=self.dim,
            files={"recogniser": sha256_file(self.world.folder / "encoder.safetensors")},
            input={"size": self.image_size}, licence=LICENCE,
        )  # fmt: skip

    @property
    def dim(self) -> int:
        """D."""
        return self.net.head.out_features

    @property
    def image_size(self) -> int:
        """S, pixels a side."""
        return self.world.picture_size

    def read(self, images: Sequence[Image.Image], *, allow_outside: bool = False) -> list[Reading]:
        """Unit embeddings of the central squares of RGB photos.

        Args:
            images: the photos.
            allow_outside: embed pictures that do not look like this world's, too.

        Raises:
            OutsideWorldError: a photo is not of this world, by its number.
        """
        if not images:
            return []
        pictures = torch.stack([photo_tensor(image.convert("RGB"), self.image_size) for image in images])
        if not allow_outside:
            for number, picture in enumerate(pictures, start=1):
                where = f"photo {number} of {len(images)}" if len(images) > 1 else ""
                self.guard.check(where, picture, self.world.name, self.world.domain.about)
        with torch.no_grad():
            embeddings = self.net(pictures)
        return [Reading(embedding=embedding, quality=None) for embedding in embeddings]

    def embed(self, images: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """The embeddings of `read` alone.

        Raises:
            OutsideWorldError: a photo is not of this world, by its number.
        """
        readings = self.read(images)
        return torch.stack([reading.embedding for reading in readings]) if readings else torch.zeros(0, self.dim)
