"""Subjects of a folder of photographs: prepared once, and then at hand as latents and embeddings for any base and encoder.

A folder's few subjects are shared out by their split. Those of `Split.TRAIN` teach, those of `Split.VALIDATION` choose weights
and settings, those of `Split.HELD_OUT` are scored. Where a subject has fewer photos than are asked for, they come again.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lorasynth.base import Base, Photos, Prompts
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.errors import UsageError
from lorasynth.gallery import PhotoRef, Role, Split, Use
from lorasynth.gallery.gallery import person_number
from lorasynth.gallery.prepare import Prepared, fingerprint_of
from lorasynth.gallery.splits import FEWEST_PHOTOS, in_order
from lorasynth.subjects.protocol import GIVEN, SECOND, SIMILARITY, Recogniser, mean_directions
from lorasynth.subjects.recogniser import PictureRecogniser

SPLITS = {
    Role.ZOO: (Split.TRAIN,),
    Role.PILOT: (Split.PILOT,),
    Role.CHOOSING: (Split.VALIDATION,),
    Role.STOPPING: (Split.VALIDATION,),
    Role.STRANGERS: (Split.VALIDATION,),
    # NOTE: no recogniser has learned from a folder's subjects, so those who teach may set the rate of false accepts.
    Role.THRESHOLD: (Split.VALIDATION, Split.TRAIN),
    Role.EVALUATED: (Split.HELD_OUT,),
    Role.MEASURED: (Split.HELD_OUT,),
}
"""The splits that subjects of a role are taken from, in this order."""
_CAPTIONS = 4_096  # whose prompts are kept, in the CPU's memory: those of FLUX have 4 MB each


class PhotoSubjects:
    """Subjects of a prepared gallery, for any base and any encoder."""

    draw = None

    def __init__(
        self,
        base: Base,
        prepared: Prepared,
        encoder: Encoder,
        second: Encoder | None = None,
        *,
        data: Record,
        everybody: bool = False,
    ):
        """Take what is opened.

        Args:
            base: that photos are encoded for.
            prepared: the gallery.
            encoder: the conditioning encoder, which `prepared` has its embeddings by.
            second: another one, for scores alone.
            data: the record of the whole gallery, those included of whom nothing is used.
            everybody: whether all subjects serve every purpose: those of a folder that no stage has seen, for scores.

        Raises:
            UsageError: two subjects have one number.
        """
        self.base, self.prepared, self.gallery = base, prepared, prepared.gallery
        self.data = data
        self.encoders = {SIMILARITY: encoder} | ({} if second is None else {SECOND: second})
        self.recognisers = tuple(self.encoders)
        self._everybody = everybody
        self._subjects: dict[int, str] = {}
        for subject in self.gallery.by_subject:
            if (number := person_number(subject)) in self._subjects:
                other = self._subjects[number]
                raise UsageError(f"expected subjects of different numbers, got {other!a} and {subject!a}; rename one")
            self._subjects[number] = subject
        self._prompts = lru_cache(_CAPTIONS)(lambda caption: self.base.prompts([caption]).map(Tensor.cpu))

    @property
    def name(self) -> str:
        """The folder's, without its path."""
        return self.gallery.name

    @property
    def content(self) -> str:
        """The folder's files, captions and masks, the pixels a side, and the encoder that leaves photos out."""
        return f"{self.data['hash']} {self.base.picture_size} {fingerprint_of(self.prepared.encoder)}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """What evaluation asks for."""
        return self.gallery.prompts

    def everybody(self, who: Role | Split) -> list[int]:
        """The subjects of a split, or of a role's splits.

        Raises:
            UsageError: there are too few subjects to split.
        """
        if self._everybody:
            enough = (s for s, files in self.gallery.by_subject.items() if len(files) >= FEWEST_PHOTOS)
            return [person_number(subject) for subject in in_order(enough)]
        splits = (who,) if isinstance(who, Split) else SPLITS[who]
        return [person_number(subject) for split in splits for subject in self.gallery.subjects(split)]

    def people(self, who: Role | Split, count: int) -> list[int]:
        """The first subjects of a role or a split, all of them where there are not so many.

        Raises:
            UsageError: there is nobody, or there are too few subjects to split.
        """
        found = self.everybody(who)[:count]
        if not found:
            raise UsageError(f"{self.name}: expected a subject to be {who.value}, got none; add subjects")
        return found

    def split(self, person: int) -> Split:
        """Of a subject."""
        return self._split_of[self._subjects[person]]

    @cached_property
    def _split_of(self) -> dict[str, Split]:
        return {subject: split for split in Split for subject in self.gallery.subjects(split)}

    def teachers(self, first: int, count: int) -> list[int]:
        """All who teach, with a LoRA in the zoo or without.

        Raises:
            UsageError: there is nobody, or there are too few subjects to split.
        """
        return self.people(Role.ZOO, count)

    def given(
        self, people: Sequence[int], count: int = 1, *, first: int = 0, by: str = GIVEN
    ) -> Float[Tensor, "N J D"]:
        """Embeddings of photos that are given. One encoder both conditions and scores."""
        return self._embeddings(self._refs(people, Use.GIVEN, count, first), SIMILARITY if by == GIVEN else by)

    def shown(self, people: Sequence[int], count: int, *, first: int = 0) -> Photos:
        """Photos that a LoRA of the zoo is fine-tuned on: they are none of those given."""
        return self.photos(self._refs(people, Use.FIT, count, first))

    def embedded(self, people: Sequence[int], count: int, *, first: int = 0) -> Float[Tensor, "N J D"]:
        """Embeddings of the photos of `shown`."""
        return self._embeddings(self._refs(people, Use.FIT, count, first), SIMILARITY)

    def zoo_photos(self, people: Sequence[int], count: int, first: int) -> Photos:
        """The photos that a LoRA of a zoo is fine-tuned on."""
        return self.shown(people, count, first=first)

    def fitted(self, people: Sequence[int], count: int) -> Photos:
        """Photos to fine-tune on, of as many different ones as each has up to ``count``."""
        most = max(len(self.gallery.photos(self._subjects[person], Use.FIT, count)) for person in people)
        return self.photos(self._refs(people, Use.FIT, most))

    def given_photos(self, people: Sequence[int]) -> Photos:
        """The first photo that is given, of each."""
        return self.photos(self._refs(people, Use.GIVEN, 1))

    def scored(self, people: Sequence[int], by: str = SIMILARITY) -> list[Float[Tensor, "J D"]]:
        """Embeddings of all photos for scoring."""
        refs = [self.gallery.photos(self._subjects[person], Use.SCORE, len(self.gallery.files)) for person in people]
        return [self._embeddings([photos], by)[0] for photos in refs]

    def centroids(self, people: Sequence[int], by: str = SIMILARITY) -> Float[Tensor, "N D"]:
        """The mean direction of these photos."""
        return mean_directions(self.scored(people, by))

    def real(self, people: Sequence[int], count: int) -> Float[Tensor, "N K 3 S S"]:
        """Photos that a LoRA would be fine-tuned on, of the size that the base draws."""
        refs = self._refs(people, Use.FIT, count)
        pictures = self.gallery.pictures([photo for photos in refs for photo in photos], self.base.picture_size)
        return pictures.to(torch.get_default_device()).unflatten(0, (len(people), count))

    def images(self, people: Sequence[int]) -> list[Image.Image]:
        """The first photo that is given, of each."""
        return self.gallery.images([photos[0] for photos in self._refs(people, Use.GIVEN, 1)])

    def recogniser(self, by: str) -> Recogniser:
        """The encoder of a score, of pictures."""
        encoder = self.encoders[by]
        return encoder.net if isinstance(encoder, WorldEncoder) else PictureRecogniser(encoder)

    def extras(self) -> None:
        """None: nobody knows the truth of photographs."""

    def _refs(self, people: Sequence[int], use: Use, count: int, first: int = 0) -> list[list[PhotoRef]]:
        found = []
        for person in people:
            photos = self.gallery.photos(self._subjects[person], use, len(self.gallery.files))
            found.append([photos[(first + i) % len(photos)] for i in range(count)])
        return found

    def _embeddings(self, refs: Sequence[Sequence[PhotoRef]], by: str) -> Float[Tensor, "N J D"]:
        flat = [photo for photos in refs for photo in photos]
        if by == SIMILARITY:
            return self.prepared.embeddings(flat).unflatten(0, (len(refs), -1))
        recognise = PictureRecogniser(self.encoders[by])
        return torch.cat([recognise.images(self.gallery.images([photo])) for photo in flat]).unflatten(
            0, (len(refs), -1)
        )

    def photos(self, refs: Sequence[Sequence[PhotoRef]]) -> Photos:
        """Photos of each subject, as many of one as of another, as the base sees them."""
        flat, shape = [photo for photos in refs for photo in photos], (len(refs), len(refs[0]))
        latents, captions = self.prepared.latents(flat), self.gallery.captions(flat)
        masks = self.gallery.masks(flat, self.base.picture_size)
        if masks is not None:
            masks = F.adaptive_avg_pool2d(masks, (latents.shape[-2], latents.shape[-1])).unflatten(0, shape)
        place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        prompts = Prompts.cat([self._prompts(caption) for caption in place])
        return Photos(
            latents=latents.unflatten(0, shape), prompts=prompts.map(lambda p: p.to(torch.get_default_device())),
            caption=torch.tensor([place[caption] for caption in captions]).unflatten(0, shape), masks=masks,
        )  # fmt: skip
