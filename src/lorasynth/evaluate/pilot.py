"""A pilot of a zoo: which settings are right for a base is measured on a few subjects, before thousands of LoRAs are trained."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record
from lorasynth.errors import LayoutError, UsageError, ZooError
from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.pilot_record import PILOT_NAME, as_table, format_settings, read_candidates
from lorasynth.evaluate.pilot_search import FACTORS, Candidate, Search, choose
from lorasynth.evaluate.zoo_quality import TrainedTwice, centred_agreement, drawn_similarity, repeatability, train_twice
from lorasynth.gallery import Role
from lorasynth.lora.layout import Layout
from lorasynth.storage.files import write_json
from lorasynth.storage.outputs import make_folder
from lorasynth.subjects import SIMILARITY, Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.workers.locks import locked
from lorasynth.worlds.world import get_world
from lorasynth.zoo.config import ZooConfig, zoo_recipe
from lorasynth.zoo.initialisation import learn_init
from lorasynth.zoo.materials import photo_recipe
from lorasynth.zoo.module_sets import module_sets
from lorasynth.zoo.rewrite import PREPARED_NAME
from lorasynth.zoo.settings import SETTINGS_NAME, ZooSettings

MOST_SUBJECTS = 12
_TO_DIVIDE = 4
"""Pilot subjects from which on half of them learn the shared lora_A, and the others are measured."""
_PROMPTS = 2  # that each subject is drawn by


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """How a pilot is run."""

    zoo: ZooConfig  # the recipe's, whose settings are the first candidate
    subjects: int = MOST_SUBJECTS  # at most
    factors: tuple[str, ...] = FACTORS  # which settings are looked at, in this order


class Pilot:
    """A pilot in a folder, which goes on where it was."""

    def __init__(
        self,
        config: PilotConfig,
        subjects: Subjects,
        of: Mapping[str, Any],
        folder: Path,
        *,
        report: Callable[[str], None] = print,
    ):
        """Take what is opened.

        Args:
            config: how it is run.
            subjects: on their base, with their encoder.
            of: what all candidates have in common: the recipe's zoo, base, photographs and encoder, as a zoo's recipe says them.
            folder: for `PILOT_NAME` and `SETTINGS_NAME`.
            report: gets a line for each candidate.

        Raises:
            UsageError: there are fewer than two pilot subjects.
        """
        self.config, self.subjects, self.folder, self.report = config, subjects, folder, report
        people = subjects.people(Role.PILOT, config.subjects)
        if len(people) < 2:
            raise UsageError(f"expected at least 2 pilot subjects to compare, got {len(people)}; add subjects")
        # Those measured had no part in lora_A, as a zoo's people have none; unless there are too few to divide.
        half = len(people) // 2 if len(people) >= _TO_DIVIDE else 0
        self.taught, self.measured = people[:half] or people, people[half:]
        self._first_photo = of.get("first_photo", 0)
        self._of = common(config, of)
        self._sets = different_sets(subjects.base)
        self._candidates: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Look for the settings, and write both files.

        Returns:
            What `PILOT_NAME` says: "of", "base_similarity", "candidates" and "chosen", one of them. Each has its "settings", the
            name of its set of "modules" and its "parameters"; "similarity" with interval, its "gain" over the base alone,
            "agreement" and "agreement_centred" (see `repeatability`), "values" (see `pilot_search.choose`), "norm" (mean ‖ΔW‖),
            "seconds" a LoRA, "groups" (mean similarity where only one group of modules keeps its update). "learned" says
            whether the chosen one's mean value is above 0 by two standard errors or more.

        Raises:
            UsageError: the folder is another pilot's.
        """
        make_folder(self.folder)
        with locked(self.folder):
            self._candidates = read_candidates(self.folder, self._of)
            search = Search(run=self.candidate, sets=self._sets, report=self.report)
            chosen = choose(search(ZooSettings.of(self.config.zoo), self.config.factors))
            record = self._record() | {"chosen": chosen.figures, "learned": chosen.is_positive}
            write_json(self.folder / PILOT_NAME, record)
            chosen.settings.write(self.folder / SETTINGS_NAME, self.subjects.base.family)
        for line in as_table(self._candidates, chosen.figures):
            self.report(line)
        return record

    def candidate(self, settings: ZooSettings) -> Candidate:
        """A candidate, remembered, or measured and written down.

        Raises:
            LayoutError: the base has no LoRAs of such settings.
        """
        for figures in self._candidates:
            if ZooSettings.parse(figures["settings"]) == settings:
                return Candidate(settings=settings, figures=figures)
        layout = self.subjects.base.layout(settings.rank, settings.targets)
        found = {
            "settings": settings.to_dict(),
            "modules": self._name_of(settings),
            "parameters": layout.num_parameters,
        }
        make_folder(self.folder)
        self.report(f"candidate {len(self._candidates) + 1}: {format_settings(found)}")
        started = time.monotonic()
        found |= self._figures(settings, layout)
        self._candidates.append(found)
        write_json(self.folder / PILOT_NAME, self._record())
        if len(self._candidates) == 1:
            self.report(
                f"a candidate takes about {time.monotonic() - started:.0f} s here, and a setting two to four of them"
            )
        return Candidate(settings=settings, figures=found)

    def _figures(self, settings: ZooSettings, layout: Layout) -> dict[str, Any]:
        # 1. A shared initialisation, which other subjects learn by the same settings.
        config, taught = settings.applied(self.config.zoo), self._photos(self.taught)
        try:
            init = learn_init(self.subjects.base, layout, lambda _: taught, config, report=self.report)
        except ZooError as error:
            self.report(str(error))
            return {"values": None}
        # 2. LoRAs as the zoo's would be, twice.
        trained = train_twice(
            self.subjects, self.measured, self._photos(self.measured), layout, init, config.adapt,
            bank_size=config.bank or len(self.measured), report=self.report,
        )  # fmt: skip
        if not trained.finite:
            self.report("the training diverged")
            return {"values": None}
        # 3. What they draw, and how alike they came out.
        return {"seconds": trained.seconds, **self._worth(trained)}

    def _worth(self, trained: TrainedTwice) -> dict[str, Any]:
        both = [trained.similarity(vectors, self._prompts) for vectors in (trained.first, trained.second)]
        similarity = (both[0] + both[1]) / 2
        gain = similarity - self._base_similarity
        agreement = centred_agreement(trained.layout, trained.first, trained.second)
        return {
            "similarity": interval(similarity), "gain": gain.mean().item(),
            **repeatability(trained.layout, trained.first, trained.second, trained.init),
            "values": (gain * agreement.clamp(min=0)).tolist(), "norm": trained.norm(),
            "groups": trained.by_group(self._prompts),
        }  # fmt: skip

    def _photos(self, people: Sequence[int]) -> Photos:
        return self.subjects.zoo_photos(people, self.config.zoo.photos, self._first_photo)

    def _record(self) -> dict[str, Any]:
        return {
            "format": 1, "of": self._of, "taught": self.taught, "measured": self.measured,
            "base_similarity": self._base_similarity.mean().item(), "candidates": self._candidates,
        }  # fmt: skip

    def _name_of(self, settings: ZooSettings) -> str:
        return next((name for name, targets in self._sets.items() if targets == settings.targets), "of the recipe")

    @property
    def _prompts(self) -> list[str]:
        return list(self.subjects.prompts[:_PROMPTS])

    @cached_property
    def _base_similarity(self) -> Float[Tensor, " N"]:
        """Of the base's own pictures to each subject."""
        layout = self.subjects.base.layout(1)
        nothing = torch.zeros(1, layout.num_parameters)
        return drawn_similarity(self.subjects, self.measured, layout, nothing, self._prompts)


def open_pilot(
    config: PilotConfig, source: PhotoSource | None, folder: Path, *, report: Callable[[str], None] = print
) -> Pilot:
    """A pilot of photographs, which are prepared in its folder, or of the people of the zoo's drawn world.

    Args:
        config: how it is run.
        source: photographs, base and encoder; None for those of the drawn world.
        folder: the pilot's.
        report: gets a line now and then.

    Raises:
        LorasynthError: one of them cannot be opened, or the folder is another pilot's.
    """
    zoo = config.zoo
    if source is None:
        subjects: Subjects = DrawnSubjects(get_world(zoo.world))
        return Pilot(config, subjects, zoo_recipe(zoo), folder, report=report)

    def check(base: Base, data: Record, encoder: Encoder) -> None:  # before any photo is looked at
        base.layout(zoo.rank, zoo.targets)
        read_candidates(folder, common(config, photo_recipe(zoo, base, data, encoder.record)))

    photos = source.open(folder / PREPARED_NAME, check=check, report=report)
    of = photo_recipe(zoo, photos.base, photos.data, photos.encoders[SIMILARITY].record)
    return Pilot(config, photos, of, folder, report=report)


def common(config: PilotConfig, of: Mapping[str, Any]) -> dict[str, Any]:
    """What all candidates of a pilot have in common, as JSON values."""
    found: dict[str, Any] = json.loads(json.dumps({**of, "subjects": config.subjects}))
    return found


def different_sets(base: Base) -> dict[str, tuple[str, ...]]:
    """Sets of modules that a base has, by name, without those that are another one by another name."""
    found: dict[str, tuple[str, ...]] = {}
    seen = set()
    for name, targets in module_sets(base.denoiser).items():
        try:
            layout = base.layout(1, targets)
        except LayoutError:  # none of the base's layers
            continue
        if layout.hash not in seen:
            seen.add(layout.hash)
            found[name] = targets
    return found
