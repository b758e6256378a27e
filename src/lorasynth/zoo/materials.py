"""What a zoo is made from: people of a drawn world, or subjects of a folder of photographs, as banks need them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.errors import UsageError
from lorasynth.gallery import Role, Split
from lorasynth.storage.settings import Settings
from lorasynth.subjects import SIMILARITY
from lorasynth.subjects.photos import PhotoSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.worlds.subjects import persons_of, split_of
from lorasynth.worlds.world import get_world
from lorasynth.zoo.config import PILOT_ALONE, ZooConfig, zoo_recipe
from lorasynth.zoo.preservation import Preservation, class_photos
from lorasynth.zoo.rewrite import PREPARED_NAME
from lorasynth.zoo.store import Zoo

_FEWEST = 2
"""People on either side of a zoo: fitting asks for as many."""


class Material(ABC):
    """People of a zoo and of its pilot, and their photos as a base sees them.

    They are those of the recipe, or the pilot's people alone (`PILOT_ALONE`).
    """

    base: Base
    source: str
    licence: str

    def __init__(self, config: ZooConfig):
        """Split the pilot's people, if theirs are the only LoRAs. What `_everybody_of_pilot` reads has to be there.

        Raises:
            UsageError: they are too few.
        """
        self.config = config
        self._alone = splits_of_lone_pilot(self._everybody_of_pilot) if config.people == PILOT_ALONE else {}

    @property
    @abstractmethod
    def recipe(self) -> Settings:
        """What the zoo's folder says of how its LoRAs come about, as JSON values."""

    @property
    def persons(self) -> list[int]:
        """Everybody who gets a LoRA, those who teach first. Those of a pilot alone shaped lora_A, too."""
        return list(self._alone) or self._by_recipe()

    def split(self, person: int) -> Split:
        """Of a person."""
        return self._alone[person] if self._alone else self._usual_split(person)

    @abstractmethod
    def photos(self, persons: list[int]) -> Photos:
        """Photos that LoRAs are fine-tuned on."""

    @abstractmethod
    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Embeddings of photos that LoRAs are not fine-tuned on, as the user's photo will not be."""

    @abstractmethod
    def pilot(self, number: int) -> Photos:
        """Photos of the people of a round of the pilot. They get LoRAs in a zoo of the pilot alone only."""

    @abstractmethod
    def _by_recipe(self) -> list[int]: ...

    @abstractmethod
    def _usual_split(self, person: int) -> Split: ...

    @property
    @abstractmethod
    def _everybody_of_pilot(self) -> list[int]: ...


class DrawnMaterial(Material):
    """People of a drawn world, by its own base and encoder."""

    licence = "Apache-2.0"

    def __init__(self, config: ZooConfig):
        self.world = get_world(config.world)
        self.base: Base = self.world.base
        self.source = f"world {config.world}"
        super().__init__(config)

    @property
    def recipe(self) -> Settings:
        """The settings."""
        return zoo_recipe(self.config)

    def _by_recipe(self) -> list[int]:
        """The first of those whom zoos may hold, and the first of those who choose."""
        return persons_of(Role.ZOO, self.config.people) + persons_of(Role.CHOOSING, self.config.validation_people)

    def _usual_split(self, person: int) -> Split:
        """By the table of people."""
        return split_of(person) or Split.TRAIN

    def photos(self, persons: list[int]) -> Photos:
        """As many as the settings say, from where they say."""
        return self.world.photos(persons, self.config.photos, self.config.first_photo)

    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Of each person's own settings."""
        return self.world.embeddings(persons, self.config.embedding_photos, first=self.config.photos)

    def pilot(self, number: int) -> Photos:
        """Fresh people each round, with settings of their own."""
        each = self.config.pilot_people
        return self.world.photos(self._everybody_of_pilot[number * each :][:each], self.config.photos)

    @property
    def _everybody_of_pilot(self) -> list[int]:
        return persons_of(Role.PILOT, self.config.pilot_people * self.config.pilot_rounds)


class PhotoMaterial(Material):
    """Subjects of a folder of photographs, for any base."""

    def __init__(self, subjects: PhotoSubjects, config: ZooConfig, licence: str, preserved: Photos | None = None):
        """Take what is opened.

        Args:
            subjects: of the folder.
            config: of the zoo.
            licence: what the LoRAs may be used for.
            preserved: pictures of the subjects' class.
        """
        self.subjects, self.licence, self.preserved = subjects, licence, preserved
        self.base = subjects.base
        self.source = f"photos {subjects.name}"
        super().__init__(config)

    @property
    def recipe(self) -> Settings:
        """The settings, the base, the photos and the encoder."""
        return photo_recipe(self.config, self.base, self.subjects.data, self.subjects.encoders[SIMILARITY].record)

    def _by_recipe(self) -> list[int]:
        """The first subjects of the training split, and all of the validation split."""
        return self.subjects.everybody(Role.ZOO)[: self.config.people] + self.subjects.everybody(Role.CHOOSING)

    def _usual_split(self, person: int) -> Split:
        """By the gallery."""
        return self.subjects.split(person)

    def photos(self, persons: list[int]) -> Photos:
        """As many as the settings say."""
        return replace(self.subjects.shown(persons, self.config.photos), class_photos=self.preserved)

    def embeddings(self, persons: list[int]) -> Float[Tensor, "n J D"]:
        """Of photos that are given."""
        return self.subjects.given(persons, self.config.embedding_photos)

    def pilot(self, number: int) -> Photos:
        """Fresh subjects each round where the pilot has two for each, or else all of them."""
        pilot = self._everybody_of_pilot
        each = len(pilot) // self.config.pilot_rounds
        return self.photos(pilot[number * each :][:each] if each >= 2 else pilot)

    @property
    def _everybody_of_pilot(self) -> list[int]:
        return self.subjects.people(Role.PILOT, self.config.pilot_people * self.config.pilot_rounds)


def splits_of_lone_pilot(people: Sequence[int]) -> dict[int, Split]:
    """Who of a pilot teaches, and who chooses, where their LoRAs are the only ones: the last quarter chooses, two at least.

    Raises:
        UsageError: there are fewer than two on either side.
    """
    choosing = max(_FEWEST, len(people) // 4)
    if len(people) < choosing + _FEWEST:
        raise UsageError(
            f"expected at least {2 * _FEWEST} people in a pilot whose LoRAs are the only ones, got {len(people)}; add subjects, "
            "or give --subjects a number above 0"
        )
    return {p: Split.VALIDATION if i >= len(people) - choosing else Split.TRAIN for i, p in enumerate(people)}


def open_photo_material(
    source: PhotoSource, config: ZooConfig, folder: Path, *, report: Callable[[str], None] | None = None
) -> PhotoMaterial:
    """Open photographs, base and encoder, and prepare the photos in the zoo's folder.

    Args:
        source: which.
        config: of the zoo.
        folder: the zoo's.
        report: gets a line on the photos; None draws no bar either.

    Raises:
        LorasynthError: one of them cannot be opened, or too few photos can be used.
    """

    def check(base: Base, data: Record, encoder: Encoder) -> None:
        layout = base.layout(config.rank, config.targets)  # what the base has no layers for is refused
        if (folder / "zoo.json").exists():  # another zoo's is refused before anything of it is changed
            zoo, recipe = Zoo.open(folder), photo_recipe(config, base, data, encoder.record)
            zoo.require_recipe(layout, recipe | {"bank": zoo.recipe.get("bank")})

    forgotten = forgotten_people(folder)
    subjects = source.open(folder / PREPARED_NAME, hidden=forgotten.__contains__, check=check, report=report)
    preserved = preserved_photos(subjects.base, config.preservation, folder)
    return PhotoMaterial(subjects, config, source.licence, preserved)


def preserved_photos(base: Base, preservation: Preservation | None, folder: Path) -> Photos | None:
    """The class's pictures that a zoo's LoRAs are trained on, too, if any; kept in the zoo's folder."""
    return None if preservation is None else class_photos(base, preservation, folder / PREPARED_NAME)


def photo_recipe(config: ZooConfig, base: Base, data: Record, encoder: Record) -> Settings:
    """The settings of a zoo of photographs as its folder says them."""
    settings = zoo_recipe(config)
    said = {k: v for k, v in settings.items() if k not in ("world", "first_photo")}
    said |= {"base": base.name, "family": base.family, "picture_size": base.picture_size}
    return Settings(said | {"data": data, "encoder": encoder}, settings.defaults)


def forgotten_people(folder: Path) -> set[int]:
    """Who was taken out of a zoo, if one is there: their photos are not looked at again."""
    return Zoo.open(folder).forgotten_persons if (folder / "zoo.json").exists() else set()
