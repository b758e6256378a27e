"""A model and the people to score it on, opened by name: a drawn world's own, or those of photographs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base
from lorasynth.devices import use_device
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import ModelError, UsageError
from lorasynth.evaluate.methods import (
    FINE_TUNED,
    FINE_TUNED_ONE_PHOTO,
    EvaluationConfig,
    asked_methods,
    evaluate,
    lora_vectors,
)
from lorasynth.evaluate.text_alignment import TextAlignment
from lorasynth.gallery import Split
from lorasynth.model_folder import find_synthesizer
from lorasynth.storage.reading import read_json
from lorasynth.storage.schema import ANYTHING, number, one_of, record, whole
from lorasynth.subjects import Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.synthesizer import Synthesizer
from lorasynth.workers.helpers import helpers
from lorasynth.workers.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.workers.sharing import require_shareable
from lorasynth.worlds.world import WORLDS, get_world
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.store import Zoo

_PREPARED = "prepared"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is scored, and on whom."""

    folder: Path
    photos: PhotoSource | None
    place: Path  # that workers share: the cache, or a folder that goes with the context
    cache: Path | None
    model: Synthesizer
    subjects: Subjects
    fine_tuning: AdaptConfig

    def evaluate(
        self,
        config: EvaluationConfig,
        *,
        workers: int = 1,
        trained_on: Zoo | None = None,
        alignment: TextAlignment | None = None,
        report: Callable[[str], None] = print,
    ) -> tuple[dict[str, Any], dict[str, Float[Tensor, "N K 3 H W"]]]:
        """See `lorasynth.evaluate.methods.evaluate`. Other processes share the fine-tuning, this one among ``workers``.

        Raises:
            UsageError: the running script cannot be imported by workers.
        """
        methods = asked_methods(self.model, config)
        tuned = replace(config, methods=tuple(name for name in (FINE_TUNED_ONE_PHOTO, FINE_TUNED) if name in methods))
        if workers > 1:
            require_main_guard()
            require_shareable(self.place / LEASES_NAME)
        device = str(torch.get_default_device())
        with helpers(
            workers - 1 if tuned.methods else 0, fine_tune, self.folder, self.photos, self.place, tuned, device
        ) as others:
            found = evaluate(
                self.subjects, self.model, self.fine_tuning, config, trained_on=trained_on, alignment=alignment,
                cache=self.place if workers > 1 else self.cache, report=report,
            )  # fmt: skip
        for process in others:
            if process.exitcode != 0:
                report(f"a worker ended with code {process.exitcode}; the others did its part")
        return found


def fine_tune(folder: Path, photos: PhotoSource | None, cache: Path, config: EvaluationConfig, device: str) -> None:
    """A worker's part: LoRAs that are fine-tuned, into the cache."""
    torch.set_num_threads(1)
    use_device(device)
    with open_for_pictures(folder, photos, cache, report=None) as opened:
        subjects = opened.subjects
        people = subjects.people(Split.HELD_OUT, config.people)
        lora_vectors(subjects, opened.model, people, opened.fine_tuning, config, cache, lambda _: None)


@contextmanager
def open_for_pictures(
    model_name: str | Path,
    photos: PhotoSource | None,
    cache: Path | None,
    *,
    report: Callable[[str], None] | None = print,
) -> Iterator[Opened]:
    """Open a synthesizer and people to score it on.

    Args:
        model_name: of the synthesizer: its folder, a drawn world or a hub id.
        photos: whose, on the model's own base where they name none. None for a drawn world's own people.
        cache: keeps what is read of photos, and fine-tuned LoRAs. Without it, they last as long as the context.
        report: gets a line on the photos; None draws no bar either.

    Raises:
        ModelError: the synthesizer cannot be read, or was made with another encoder.
        UsageError: there are no photographs, and the model is not of a drawn world.
    """
    folder = find_synthesizer(model_name)
    model, fine_tuning = Synthesizer.from_pretrained(folder), fine_tuning_recipe(folder)
    if photos is None:
        if model.base not in WORLDS or not isinstance(model.encoder, WorldEncoder):
            raise UsageError(
                f"{folder}: expected photographs to score a model of {model.base} on, got none; give --data and --encoder, or "
                "--zoo ZOO to score it by weights"
            )
        with _place(cache) as place:
            yield Opened(
                folder=folder, photos=None, place=place, cache=cache, model=model, fine_tuning=fine_tuning,
                subjects=DrawnSubjects(get_world(model.base)),
            )  # fmt: skip
        return
    if model.encoder is None:
        model = Synthesizer.from_pretrained(folder, encoder=photos.encoder)
    expected = model.encoder.record if model.encoder is not None else model.encoder_record

    def check(base: Base, data: Record, encoder: Encoder) -> None:
        if expected is not None and (wrong := difference(expected, encoder.record)):
            raise ModelError(f"{folder}: {wrong}; give the encoder that it was made with")

    photos = replace(photos, base=photos.base or model.base, family=model.canonicalizer.layout.base)
    with _place(cache) as place:
        yield Opened(
            folder=folder, photos=photos, place=place, cache=cache, model=model, fine_tuning=fine_tuning,
            subjects=photos.open(place / _PREPARED, check=check, report=report),
        )  # fmt: skip


@contextmanager
def _place(cache: Path | None) -> Iterator[Path]:
    """The folder of a cache, or one that goes with the context."""
    with TemporaryDirectory() as temporary:
        yield Path(temporary) if cache is None else cache


_SHARE = number(0, 1)
_RECIPE = record({"fine_tuning": record(optional={
    "steps": whole(1, 1_000_000), "batch_size": whole(1, 4_096), "learning_rate": number(0, 100), "adam_epsilon": _SHARE,
    "beta1": _SHARE, "beta2": _SHARE, "average_from": _SHARE, "strength": number(0, 1_000),
    "lora_A": one_of("each", "shared", "frozen"), "seed": whole(0, 2**63 - 1),
})}, rest=ANYTHING)  # fmt: skip


def fine_tuning_recipe(folder: Path) -> AdaptConfig:
    """How the fine-tuned LoRAs beside a model's are trained.

    Raises:
        ModelError: the model does not say.
    """
    return AdaptConfig(**read_json(folder / "config.json", _RECIPE)["fine_tuning"])
