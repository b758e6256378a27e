"""People of a drawn world, whose photos are drawn when they are asked for."""

from collections.abc import Sequence
from functools import cached_property

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lorasynth.base import Base, Photos
from lorasynth.encoders.images import to_image
from lorasynth.gallery import Role, Split
from lorasynth.subjects.protocol import GIVEN, SECOND, SIMILARITY, Draw, Extras, mean_directions
from lorasynth.worlds.factor_reader import FactorReader
from lorasynth.worlds.subjects import (
    GIVEN_PHOTO,
    REAL_FROM,
    SCORED,
    SCORED_FROM,
    SHOWN_FROM,
    TUNED_FROM,
    everybody,
    persons_of,
)
from lorasynth.worlds.world import World

IMAGE_SIZE = 256
"""Pixels a side of the photos that people are given."""


class DrawnSubjects:
    """A drawn world's people, with its own base and recognisers."""

    recognisers = (SIMILARITY, SECOND)

    def __init__(self, world: World, embedder: nn.Module | None = None):
        """People of a world.

        Args:
            world: whose.
            embedder: what a synthesizer's photos are given to; by default the world's.
        """
        self.world, self._given = world, embedder

    @property
    def embedder(self) -> nn.Module:
        """What a synthesizer's photos are given to."""
        return self._given or self.world.embedder

    @property
    def name(self) -> str:
        """The world's."""
        return self.world.name

    @property
    def content(self) -> str:
        """The world, which draws the same photos always."""
        return self.name

    @cached_property
    def base(self) -> Base:
        """The world's."""
        return self.world.base

    @property
    def prompts(self) -> tuple[str, ...]:
        """What evaluation asks for."""
        return self.world.prompts

    @property
    def draw(self) -> Draw:
        """The world's renderer."""
        return self.world.draw

    def everybody(self, who: Role | Split) -> tuple[int, ...]:
        """By the table of people."""
        return everybody(who)

    def people(self, who: Role | Split, count: int) -> list[int]:
        """The first people of a role or a split.

        Raises:
            UsageError: there are fewer.
        """
        return persons_of(who, count)

    def teachers(self, first: int, count: int) -> list[int]:
        """People of the zoo's role from ``first`` on.

        Raises:
            UsageError: there are fewer.
        """
        return persons_of(Role.ZOO, count, offset=first)

    def given(
        self, people: Sequence[int], count: int = 1, *, first: int = 0, by: str = GIVEN
    ) -> Float[Tensor, "N J D"]:
        """Embeddings of the first photos of each."""
        return self.world.embeddings(list(people), count, first=GIVEN_PHOTO + first, net=self.recogniser(by))

    def shown(self, people: Sequence[int], count: int, *, first: int = 0) -> Photos:
        """Photos behind those that may be given."""
        return self.world.photos(list(people), count, first=SHOWN_FROM + first)

    def embedded(self, people: Sequence[int], count: int, *, first: int = 0) -> Float[Tensor, "N J D"]:
        """Embeddings of the photos of `shown`."""
        return self.world.embeddings(list(people), count, first=SHOWN_FROM + first)

    def zoo_photos(self, people: Sequence[int], count: int, first: int) -> Photos:
        """Photos ``first … first + count`` of each, as a zoo's recipe says them."""
        return self.world.photos(list(people), count, first)

    def fitted(self, people: Sequence[int], count: int) -> Photos:
        """Photos that nothing else is given."""
        return self.world.photos(list(people), count, first=TUNED_FROM)

    def given_photos(self, people: Sequence[int]) -> Photos:
        """The one photo of each."""
        return self.world.photos(list(people), 1, first=GIVEN_PHOTO)

    def scored(self, people: Sequence[int], by: str = SIMILARITY) -> list[Float[Tensor, "J D"]]:
        """Embeddings of 8 photos of each."""
        return list(self.world.embeddings(list(people), SCORED, first=SCORED_FROM, net=self.recogniser(by)))

    def centroids(self, people: Sequence[int], by: str = SIMILARITY) -> Float[Tensor, "N D"]:
        """The mean direction of these photos."""
        return mean_directions(self.scored(people, by))

    def real(self, people: Sequence[int], count: int) -> Float[Tensor, "N K 3 S S"]:
        """Photos that nothing else is given, of the size that the base draws."""
        numbers = list(range(REAL_FROM, REAL_FROM + count)) * len(people)
        pictures = self.world.draw([p for p in people for _ in range(count)], numbers, self.world.picture_size)
        return pictures.unflatten(0, (len(people), count))

    def images(self, people: Sequence[int]) -> list[Image.Image]:
        """The one photo of each, larger than the base draws."""
        return list(map(to_image, self.world.draw(list(people), [GIVEN_PHOTO] * len(people), IMAGE_SIZE)))

    def recogniser(self, by: str) -> nn.Module:
        """The world's encoder, its second recogniser, or what synthesizers are given."""
        nets = {SIMILARITY: lambda: self.world.encoder, SECOND: lambda: self.world.second_recogniser}
        return (nets | {GIVEN: lambda: self.embedder})[by]()

    def extras(self) -> Extras:
        """The probe and the reader of true factors."""
        factors = self.world.reader or FactorReader.fit(self.world.name)
        return Extras(probe=self.world.domain.probe(), factors=factors)
