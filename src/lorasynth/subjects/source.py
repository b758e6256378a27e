"""Photographs, a base and an encoder by their names, and what opens them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from lorasynth.base import Base
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.errors import UsageError
from lorasynth.gallery import Split
from lorasynth.gallery.gallery import person_number
from lorasynth.gallery.prepare import DATA_NAME, prepare, vae_fingerprint
from lorasynth.opening import open_base, open_encoder, open_gallery
from lorasynth.subjects.photos import PhotoSubjects


@dataclass(frozen=True, kw_only=True)
class PhotoSource:
    """Which photographs, base and encoder, by their names: each process opens them once."""

    data: str
    base: str  # "" in a `Workspace`: what its zoo was made for
    encoder: str
    second_encoder: str | None = None
    licence: str = "private"
    family: str = ""  # of the base, by the recipe; "" for any
    instance_prompt: str | None = None
    prompts: tuple[str, ...] | None = None  # what pictures are asked for; by default a few of any subject
    masks: bool = True
    keep_alike: bool = False
    resolution: int | None = None
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    everybody: bool = False  # whether all subjects are scored, since no stage has seen them

    def open(
        self,
        folder: Path,
        *,
        hidden: Callable[[int], bool] = lambda _: False,
        check: Callable[[Base, Record, Encoder], None] = lambda *_: None,
        report: Callable[[str], None] | None = None,
    ) -> PhotoSubjects:
        """Open them, and prepare the photos in a folder, with all other processes that do the same.

        Args:
            folder: where embeddings and latents are kept, by content.
            hidden: which subjects' photos are not looked at, by number.
            check: refuses base, record of the gallery and encoder before any photo is opened.
            report: gets a line on the photos; None draws no bar either.

        Raises:
            LorasynthError: one of them cannot be opened, or too few photos can be used.
        """
        gallery = open_gallery(
            self.data, instance_prompt=self.instance_prompt, masks=self.masks, keep_alike=self.keep_alike
        )
        gallery = gallery if self.prompts is None else replace(gallery, asked=self.prompts)
        data = gallery.record
        gallery = gallery.hide([subject for subject in gallery.by_subject if hidden(person_number(subject))])
        if not self.everybody:
            gallery.subjects(Split.TRAIN)  # before anything heavy: too few subjects are refused
        encoder = open_encoder(self.encoder)
        second = open_encoder(self.second_encoder) if self.second_encoder is not None else None
        base = open_base(
            self.base, resolution=self.resolution, precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
        )  # fmt: skip
        if self.family not in ("", base.family):
            raise UsageError(
                f"{self.base}: expected a base of family {self.family!r} for this recipe, got {base.family!r}; choose the "
                "recipe of that family"
            )
        check(base, data, encoder)
        of_base = (vae_fingerprint(base.pipe.vae), base.picture_size, base.encode)
        with tqdm(
            total=2 * len(gallery.files), desc="photos", unit=" steps", mininterval=5.0, disable=report is None
        ) as bar:

            def show(stage: str, missing: int) -> None:
                bar.update((1 + (stage == "latents")) * len(gallery.files) - missing - bar.n)

            prepared = prepare(gallery, encoder, folder, base=of_base, on_look=show)
        if report is not None:
            found = prepared.report.record(gallery, encoder.record)
            for note in found["notes"]:
                report(note)
            report(
                f"{found['usable']} of {found['photos']} photos of {found['subjects']} subjects are used; "
                f"{folder / DATA_NAME} says why others are not"
            )
        return PhotoSubjects(base, prepared, encoder, second, data=data, everybody=self.everybody)
