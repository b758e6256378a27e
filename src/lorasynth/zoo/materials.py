"""What a zoo is made from: people of a drawn world, or subjects of a folder of photographs, as banks need them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lorasynth.base import Base, Photos
from lorasynth.base.photos import encode_captions
from lorasynth.encoders.records import Record
from lorasynth.errors import UsageError
from lorasynth.gallery import PhotoRef, Split, Use
from lorasynth.gallery.prepare import DATA_NAME, Prepared
from lorasynth.storage.settings import Settings
from lorasynth.worlds.subjects import Role, persons_of, split_of
from lorasynth.worlds.world import get_world
from lorasynth.zoo.config import ZooConfig, zoo_recipe
from lorasynth.zoo.pairs import person_number
from lorasynth.zoo.rewrite import PREPARED_NAME
from lorasynth.zoo.store import Zoo

HELD_OUT_PHOTOS = 8
"""Photos of each person, behind those trained on, that tell when a LoRA gains no more."""


@runtime_checkable
class Material(Protocol):
    """People of a zoo and of its pilot, and their photos as a base sees them."""

    base: Base
    source: str
    licence: str

    @property
    def recipe(self) -> Settings:
        """What the zoo's folder says of how its LoRAs come about, as JSON values."""
        ...

    @property
    def persons(self) -> list[int]:
        """Everybody who gets a LoRA, those who teach first."""
        ...

    def split(self, person: int) -> Split:
        """Of a person."""
        ...

    def photos(self, persons: list[int]) -> Photos:
        """Photos that LoRAs are fine-tuned on."""
        ...

    def stopping(self, persons: list[int]) -> Photos:
        """Photos that tell when a LoRA gains no more."""
        ...

    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Embeddings of photos that LoRAs are not fine-tuned on, as the user's photo will not be."""
        ...

    def pilot(self, number: int) -> Photos:
        """Photos of the people of a round of the pilot, none of whom gets a LoRA."""
        ...


class DrawnMaterial:
    """People of a drawn world, by its own base and encoder."""

    licence = "Apache-2.0"

    def __init__(self, config: ZooConfig):
        self.config, self.world = config, get_world(config.world)
        self.base: Base = self.world.base
        self.source = f"world {config.world}"

    @property
    def recipe(self) -> Settings:
        """The settings."""
        return zoo_recipe(self.config)

    @property
    def persons(self) -> list[int]:
        """The first of those whom zoos may hold, and the first of those who choose."""
        config = self.config
        return persons_of(Role.ZOO, config.people) + persons_of(Role.CHOOSING, config.validation_people)

    def split(self, person: int) -> Split:
        """By the table of people."""
        return split_of(person) or Split.TRAIN

    def photos(self, persons: list[int]) -> Photos:
        """As many as the settings say, from where they say."""
        return self.world.photos(persons, self.config.photos, self.config.first_photo)

    def stopping(self, persons: list[int]) -> Photos:
        """Those behind."""
        return self.world.photos(persons, HELD_OUT_PHOTOS, self.config.first_photo + self.config.photos)

    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Of each person's own settings."""
        return self.world.embeddings(persons, self.config.embedding_photos, first=self.config.photos)

    def pilot(self, number: int) -> Photos:
        """Fresh people each round, with settings of their own."""
        config = self.config
        people = persons_of(Role.PILOT, config.pilot_people * config.pilot_rounds)
        return self.world.photos(people[number * config.pilot_people :][: config.pilot_people], config.photos)


class PhotoMaterial:
    """Subjects of a prepared gallery, for any base. Where a subject has fewer photos than are asked for, they come again."""

    def __init__(self, base: Base, prepared: Prepared, config: ZooConfig, *, data: Record, licence: str):
        """Take what is opened.

        Args:
            base: that LoRAs are made for.
            prepared: the gallery.
            config: of the zoo.
            data: the record of the whole gallery, those included of whom nothing is used.
            licence: what the LoRAs may be used for.

        Raises:
            UsageError: there are too few subjects, or two names give one number.
        """
        self.base, self.prepared, self.config, self.data, self.licence = base, prepared, config, data, licence
        self.gallery = prepared.gallery
        self._subjects: dict[int, str] = {}  # by their numbers in the zoo
        train = list(self.gallery.subjects(Split.TRAIN))[: config.people]
        for subject in [*train, *self.gallery.subjects(Split.VALIDATION)]:
            if (number := person_number(subject)) in self._subjects:
                other = self._subjects[number]
                raise UsageError(f"expected subjects of different numbers, got {other!a} and {subject!a}; rename one")
            self._subjects[number] = subject
        self.source = f"photos {self.gallery.name}"

    @property
    def recipe(self) -> Settings:
        """The settings, the base, the photos and the encoder."""
        return _recipe(self.config, self.base, self.data, self.prepared.encoder)

    @property
    def persons(self) -> list[int]:
        """The first subjects of the training split, and all of the validation split."""
        return list(self._subjects)

    @cached_property
    def _validation(self) -> frozenset[str]:
        return frozenset(self.gallery.subjects(Split.VALIDATION))

    def split(self, person: int) -> Split:
        """By the gallery."""
        return Split.VALIDATION if self._subjects[person] in self._validation else Split.TRAIN

    def photos(self, persons: list[int]) -> Photos:
        """As many as the settings say."""
        return self._encoded([self._subjects[p] for p in persons], Use.FIT, self.config.photos)

    def stopping(self, persons: list[int]) -> Photos:
        """Those for stopping, or, of a subject with fewer than 8 photos, those for scoring."""
        names = [self._subjects[p] for p in persons]
        refs = [
            self._refs(name, Use.STOP if self.gallery.photos(name, Use.STOP, 1) else Use.SCORE, HELD_OUT_PHOTOS)
            for name in names
        ]
        return self._photos(refs)

    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Of photos that are given."""
        count = self.config.embedding_photos
        return torch.stack([self.prepared.embeddings(self._refs(self._subjects[p], Use.GIVEN, count)) for p in persons])

    def pilot(self, number: int) -> Photos:
        """Fresh subjects each round where the pilot has two for each, or else all of them."""
        subjects = list(self.gallery.subjects(Split.PILOT))[: self.config.pilot_people * self.config.pilot_rounds]
        each = len(subjects) // self.config.pilot_rounds
        chosen = subjects[number * each :][:each] if each >= 2 else subjects
        return self._encoded(chosen, Use.FIT, self.config.photos)

    def _encoded(self, subjects: Sequence[str], use: Use, count: int) -> Photos:
        return self._photos([self._refs(subject, use, count) for subject in subjects])

    def _refs(self, subject: str, use: Use, count: int) -> list[PhotoRef]:
        photos = self.gallery.photos(subject, use, count)
        return [photos[i % len(photos)] for i in range(count)]

    def _photos(self, refs: Sequence[Sequence[PhotoRef]]) -> Photos:
        flat, shape = [photo for photos in refs for photo in photos], (len(refs), len(refs[0]))
        latents = self.prepared.latents(flat)
        prompts, caption = encode_captions(self.base, self.gallery.captions(flat))
        masks = self.gallery.masks(flat, self.base.picture_size)
        if masks is not None:
            masks = torch.nn.functional.adaptive_avg_pool2d(masks, (latents.shape[-2], latents.shape[-1])).unflatten(
                0, shape
            )
        return Photos(
            latents=latents.unflatten(0, shape), prompts=prompts, caption=caption.unflatten(0, shape), masks=masks
        )


@dataclass(frozen=True, kw_only=True)
class FromPhotos:
    """Which photographs, base and encoder a zoo is made of, by their names: each process of a build opens them once."""

    data: str
    base: str
    encoder: str
    licence: str
    family: str = ""  # of the base, by the recipe; "" for any
    instance_prompt: str | None = None
    masks: bool = True
    resolution: int | None = None
    precision: str = "fp32"
    gradient_checkpointing: bool = False

    def open(self, config: ZooConfig, folder: Path, *, report: Callable[[str], None] | None = None) -> PhotoMaterial:
        """Open them, and prepare the photos in the zoo's folder, with all other processes that do the same.

        Args:
            config: of the zoo.
            folder: the zoo's.
            report: gets a line on the photos; None draws no bar either.

        Raises:
            LorasynthError: one of them cannot be opened, or too few photos can be used.
        """
        from lorasynth.gallery.prepare import prepare, vae_fingerprint
        from lorasynth.opening import open_base, open_encoder, open_photos

        gallery = open_photos(self.data, instance_prompt=self.instance_prompt, masks=self.masks)
        data, forgotten = gallery.record, _forgotten(folder)
        gallery = gallery.hide([subject for subject in gallery.by_subject if person_number(subject) in forgotten])
        gallery.subjects(Split.TRAIN)  # before anything heavy: too few subjects are refused
        encoder = open_encoder(self.encoder)
        base = open_base(self.base, resolution=self.resolution, precision=self.precision)
        if self.gradient_checkpointing:
            base.enable_gradient_checkpointing()
        if self.family not in ("", base.family):
            raise UsageError(
                f"{self.base}: expected a base of family {self.family!r} for this recipe, got {base.family!r}; choose the "
                "recipe of that family"
            )
        layout = base.layout(config.rank)  # a rank that the base is too small for is refused before any photo is opened
        if (folder / "zoo.json").exists():  # another zoo's is refused before anything of it is changed
            zoo, recipe = Zoo.open(folder), _recipe(config, base, data, encoder.record)
            zoo.require_recipe(layout, recipe | {"bank": zoo.recipe.get("bank")})
        of_base = (vae_fingerprint(base.pipe.vae), base.picture_size, base.encode)
        with tqdm(
            total=2 * len(gallery.files), desc="photos", unit=" steps", mininterval=5.0, disable=report is None
        ) as bar:

            def show(stage: str, missing: int) -> None:
                bar.update((1 + (stage == "latents")) * len(gallery.files) - missing - bar.n)

            prepared = prepare(gallery, encoder, folder / PREPARED_NAME, base=of_base, on_look=show)
        if report is not None:
            found = prepared.report.record(gallery, encoder.record)
            for note in found["notes"]:
                report(note)
            report(
                f"{found['usable']} of {found['photos']} photos of {found['subjects']} subjects are used; "
                f"{folder / PREPARED_NAME / DATA_NAME} says why others are not"
            )
        return PhotoMaterial(base, prepared, config, data=data, licence=self.licence)


def _recipe(config: ZooConfig, base: Base, data: Record, encoder: Record) -> Settings:
    settings = zoo_recipe(config)
    said = {k: v for k, v in settings.items() if k not in ("world", "first_photo")}
    said |= {"base": base.name, "family": base.family, "picture_size": base.picture_size}
    return Settings(said | {"data": data, "encoder": encoder}, settings.defaults)


def _forgotten(folder: Path) -> set[int]:
    """Who was taken out of a zoo, if one is there: their photos are not looked at again."""
    return Zoo.open(folder).forgotten_persons if (folder / "zoo.json").exists() else set()
