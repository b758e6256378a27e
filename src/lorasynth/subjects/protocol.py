"""Questions that training through a base, the choice of settings and scores ask of subjects, drawn or photographed.

Shapes: N subjects, J photos of each, K pictures of each, D embedding, S pixels a side, C h w latent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.gallery import Role, Split

Recogniser = Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]
"""Pictures in [0, 1] -> unit embeddings, or zero where a picture shows nothing to embed."""

Draw = Callable[[list[int], list[int], int], Float[Tensor, "B 3 S S"]]
"""(subjects, numbers of photos, pixels a side) -> pictures in [0, 1]."""

SIMILARITY = "similarity"
"""The score by the conditioning encoder."""
GIVEN = "given"
"""No score: what a synthesizer is conditioned on, which may be more than the encoder that scores."""
SECOND = "similarity2"
"""The score by a second recogniser: never used for conditioning, training or choosing."""


def mean_directions(embeddings: "Sequence[Float[Tensor, 'J D']]") -> Float[Tensor, "N D"]:
    """Of several photos of each subject, the direction of their mean."""
    return torch.stack([F.normalize(photos.mean(0), dim=0) for photos in embeddings])


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Scores that only a drawn world can give, since it knows the truth."""

    probe: Any  # `lorasynth.worlds.domain.Probe`: are prompts obeyed?
    factors: Any  # `lorasynth.worlds.reader.Reader` or `lorasynth.worlds.factor_reader.FactorReader`: the true identity factors


@runtime_checkable
class Subjects(Protocol):
    """Subjects by number, as a zoo's manifest has them."""

    @property
    def base(self) -> Base:
        """The base whose pictures are scored, and through which is trained."""
        ...

    @property
    def recognisers(self) -> tuple[str, ...]:
        """Scores that there is a recogniser for: `SIMILARITY`, perhaps `SECOND`."""
        ...

    @property
    def name(self) -> str:
        """What reports call them: a drawn world, or a folder without its path."""
        ...

    @property
    def content(self) -> str:
        """What decides the numbers of a subject's photos: what was computed of others is not theirs."""
        ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """What evaluation asks for."""
        ...

    def everybody(self, who: Role | Split) -> Sequence[int]:
        """All subjects of a role or a split. Lazy: a drawn world has 100,000."""
        ...

    def people(self, who: Role | Split, count: int) -> list[int]:
        """The first subjects of a role or a split. A folder gives fewer where it has fewer.

        Raises:
            UsageError: a drawn world has not so many, or there is nobody.
        """
        ...

    def teachers(self, first: int, count: int) -> Sequence[int]:
        """Those who teach through the base: at most ``count``, of a drawn world those behind the ``first`` of the zoo's.

        Raises:
            UsageError: there is nobody.
        """
        ...

    def given(
        self, people: Sequence[int], count: int = 1, *, first: int = 0, by: str = GIVEN
    ) -> Float[Tensor, "N J D"]:
        """Embeddings of photos ``first … first + count`` of those that a synthesizer is given.

        They are what it is conditioned on, or by the recogniser of a score.
        """
        ...

    def shown(self, people: Sequence[int], count: int, *, first: int = 0) -> Photos:
        """Photos ``first … first + count`` of those that training through the base denoises. None of them is given."""
        ...

    def zoo_photos(self, people: Sequence[int], count: int, first: int) -> Photos:
        """Photos that a LoRA of a zoo is fine-tuned on, ``first`` being what the zoo's recipe says of the drawn ones."""
        ...

    def fitted(self, people: Sequence[int], count: int) -> Photos:
        """Photos that a LoRA, which ours is compared with, is fine-tuned on."""
        ...

    def given_photos(self, people: Sequence[int]) -> Photos:
        """The one photo of each that a synthesizer is given, as the base sees it."""
        ...

    def scored(self, people: Sequence[int], by: str = SIMILARITY) -> list[Float[Tensor, "J D"]]:
        """Embeddings of photos of each that serve nothing but scores."""
        ...

    def centroids(self, people: Sequence[int], by: str = SIMILARITY) -> Float[Tensor, "N D"]:
        """The mean direction of the photos of `scored`, of each."""
        ...

    def real(self, people: Sequence[int], count: int) -> Float[Tensor, "N K 3 S S"]:
        """Real photos to score as if they were drawn: the ceiling of every score."""
        ...

    def images(self, people: Sequence[int]) -> list[Image.Image]:
        """The whole photo of each that a synthesizer is given."""
        ...

    def recogniser(self, by: str) -> Recogniser:
        """The recogniser of a score."""
        ...

    def embedded(self, people: Sequence[int], count: int, *, first: int = 0) -> Float[Tensor, "N J D"]:
        """Embeddings of the photos of `shown`, by the conditioning encoder: what a critic of latents can be taught."""
        ...

    @property
    def draw(self) -> Draw | None:
        """Draws any photo of any subject, for a critic that learns from thousands, or None where photos are all there is."""
        ...

    def extras(self) -> Extras | None:
        """Scores that only a drawn world can give, or None for photographs."""
        ...
