"""The folder in which the stages of one training leave their results, and what they read, opened once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import UsageError, ZooError
from lorasynth.model_folder import UNKNOWN
from lorasynth.pipeline.recipe import Recipe
from lorasynth.storage.rows import Rows
from lorasynth.subjects import SIMILARITY, Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.photos import PhotoSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.training import SINGLE_PROCESS, Processes
from lorasynth.worlds.world import World, get_world
from lorasynth.zoo.rewrite import PREPARED_NAME
from lorasynth.zoo.store import Zoo

SYNTHESIZER = "synthesizer"
"""Folder of the synthesizer, within that of the stages."""


def silent(_: str) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class ZooRows:
    """A zoo as its stages take it: LoRAs and embeddings by row, and which rows teach and which choose."""

    persons: list[int]
    vectors: Rows
    embeddings: Float[Tensor, "N J D"]
    train: Int[Tensor, " n"]
    validation: Int[Tensor, " m"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One training: its settings, zoo, photographs and folder, by name. Each is opened when a stage first asks for it.

    A copy (`dataclasses.replace`) has nothing open, and may be sent to another process.
    """

    recipe: Recipe
    folder: Path
    zoo_folder: Path | None = None
    photos: PhotoSource | None = None  # None: of a drawn world's recipe its people; else there are no pictures
    processes: Processes = SINGLE_PROCESS
    report: Callable[[str], None] = field(default=print, compare=False)

    @cached_property
    def zoo(self) -> Zoo:
        """What is learned from.

        Raises:
            UsageError: none was named.
            ZooError: it cannot be read, or is not the recipe's.
        """
        if self.zoo_folder is None:
            raise UsageError("expected a zoo, got none; give --zoo")
        zoo = Zoo.open(self.zoo_folder)
        self.recipe.check_layout(zoo.layout)
        return zoo

    @cached_property
    def fitted(self) -> Recipe:
        """The recipe with what it leaves to the zoo."""
        return self.recipe if self.zoo_folder is None else self.recipe.fitted_to(self.zoo)

    @cached_property
    def subjects(self) -> Subjects | None:
        """Whose photos the base learns from, or None where there are none and weights must tell.

        Raises:
            LorasynthError: photographs, base or encoder cannot be opened, or the zoo is of another encoder.
        """
        if self.photos is not None:
            return self._photographed(self.photos)
        return self._drawn(get_world(self.recipe.world)) if self.recipe.world and not self._of_photos else None

    def _drawn(self, world: World) -> DrawnSubjects:
        """People of a world, embedded as the zoo's are: an older one has embeddings by the encoder alone."""
        if self.zoo_folder is None or self.rows.embeddings.shape[-1] != world.encoder.embedding_dim:
            return DrawnSubjects(world)
        if world.embedder is not world.encoder:
            self.report(
                "the zoo's embeddings are by the encoder alone, as before there was an appearance net: so is the model"
            )
        return DrawnSubjects(world, world.encoder)

    @property
    def _of_photos(self) -> bool:
        """Whether the zoo's people are those of photographs, on a drawn world's base."""
        return self.zoo_folder is not None and "data" in self.zoo.recipe

    def _photographed(self, photos: PhotoSource) -> PhotoSubjects:
        zoo = self.zoo
        photos = replace(photos, family=zoo.layout.base, base=photos.base or self._usual_base)
        return photos.open(
            zoo.folder / PREPARED_NAME, hidden=zoo.forgotten_persons.__contains__, check=self._check, report=self.report
        )

    def _check(self, base: object, data: Record, encoder: Encoder) -> None:
        """Refuse an encoder that is not the zoo's, before any photo is opened."""
        said = self.zoo.recipe.get("encoder")
        if isinstance(said, dict) and (wrong := difference(said, encoder.record)):
            raise ZooError(f"{self.zoo.folder}: {wrong}; give the encoder that the zoo was made with")

    def require_subjects(self) -> Subjects:
        """`subjects`, of which there have to be some.

        Raises:
            UsageError: there are none.
        """
        if self.subjects is None:
            raise UsageError(
                f"expected photographs to train through the base, got none for recipe {self.recipe.name!r}; give --data, "
                "--encoder and --base (docs/your-pictures.md)"
            )
        return self.subjects

    @cached_property
    def rows(self) -> ZooRows:
        """The zoo's LoRAs, which stay on disk, and embeddings.

        Raises:
            ZooError: the zoo has too few validation people.
        """
        zoo = self.zoo
        persons, vectors, embeddings = zoo.open_rows()
        split = {item.person: item.split for item in zoo.items}
        train = torch.tensor([i for i, p in enumerate(persons) if split[p] == "train"])
        validation = torch.tensor([i for i, p in enumerate(persons) if split[p] == "validation"])
        if len(validation) < 2:
            more = "build more of the zoo"
            if zoo.recipe.get("source") == "import":
                small = zoo.recipe.get("validation", 0.0) < 0.25
                more = "import it into another folder with --validation 0.25" if small else "import more people"
            raise ZooError(f"{zoo.folder}: expected at least 2 validation people, got {len(validation)}; {more}")
        return ZooRows(persons, vectors, embeddings, train, validation)

    @property
    def base_name(self) -> str:
        """What the synthesizer's config says of its base."""
        if self.subjects is not None:
            return self.subjects.base.name
        return self._usual_base

    @property
    def _usual_base(self) -> str:
        """What the zoo was made for."""
        return str(self.zoo.recipe.get("base") or self.fitted.base)

    @property
    def picture_size(self) -> int:
        """Pixels a side of what the base draws."""
        if self.subjects is not None:
            return self.subjects.base.picture_size
        return int(self.zoo.recipe.get("picture_size") or self.fitted.picture_size)

    def encoder_fields(self) -> dict[str, WorldEncoder | Record]:
        """The fields of a `Synthesizer` that say what it sees photos with: a drawn world's own encoder, or a record."""
        if isinstance(self.subjects, DrawnSubjects):
            world = self.subjects.world
            return {"encoder": WorldEncoder(world, alone=self.subjects.embedder is world.encoder)}
        if isinstance(self.subjects, PhotoSubjects):
            encoder = self.subjects.encoders[SIMILARITY]
            if isinstance(encoder, WorldEncoder) and encoder.world.name == self.base_name:
                return {"encoder": encoder}
            return {"encoder_record": encoder.record}
        unknown = {"kind": UNKNOWN, "name": UNKNOWN, "dim": self.rows.embeddings.shape[-1]}
        return {"encoder_record": self.zoo.recipe.get("encoder") or unknown}
