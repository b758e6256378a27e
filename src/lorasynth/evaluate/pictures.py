"""A model and the people to score it on, opened by name: a drawn world's own, or those of photographs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base
from lorasynth.base.render import loras_at_once
from lorasynth.devices import begin_worker
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import ModelError, UsageError
from lorasynth.evaluate.methods import (
    FINE_TUNED,
    FINE_TUNED_ONE_PHOTO,
    EvaluationConfig,
    asked_methods,
    draw_pictures,
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
from lorasynth.workers.helpers import helpers, process_pool
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
        """See `lorasynth.evaluate.methods.evaluate`. ``workers`` processes fine-tune, this one among them, and then as many draw.

        Raises:
            UsageError: the running script cannot be imported by workers, or a worker that drew was killed.
        """
        methods = asked_methods(self.model, config)
        tuned = replace(config, methods=tuple(name for name in (FINE_TUNED_ONE_PHOTO, FINE_TUNED) if name in methods))
        if workers > 1:
            require_main_guard()
            require_shareable(self.place / LEASES_NAME)
        device = str(torch.get_default_device())
        tuners = workers - 1 if tuned.methods else 0
        with (
            helpers(tuners, fine_tune, self.folder, self.photos, self.place, tuned, device) as others,
            # No process is started before there is something to draw.
            process_pool(workers, begin_worker, device) if workers > 1 else nullcontext() as pool,
        ):
            found = evaluate(
                self.subjects, self.model, self.fine_tuning, config, trained_on=trained_on, alignment=alignment,
                cache=self.place if workers > 1 else self.cache, report=report,
                draw=partial(self._draw_together, pool, config) if pool else None,
            )  # fmt: skip
        for process in others:
            if process.exitcode != 0:
                report(f"a worker ended with code {process.exitcode}; the others did its part")
        return found

    def _draw_together(
        self, pool: ProcessPoolExecutor, config: EvaluationConfig, vectors: Float[Tensor, "N P"]
    ) -> tuple[Float[Tensor, "N K 3 H W"], float]:
        """`draw_pictures`, bit for bit, by the processes of a pool: each part is a batch that one process would draw, too."""
        parts = [part.cpu().numpy() for part in vectors.split(loras_at_once(self.subjects.base))]
        drawn = list(pool.map(partial(draw_part, self.folder, self.photos, self.place, config), parts))
        pictures = torch.cat([torch.from_numpy(part) for part, _ in drawn])
        return pictures.to(torch.get_default_device()), sum(seconds for _, seconds in drawn)


@lru_cache(maxsize=1)
def _opened_once(folder: Path, photos: PhotoSource | None, place: Path) -> Opened:
    return _open(folder, photos, place, place, None)


def draw_part(
    folder: Path, photos: PhotoSource | None, place: Path, config: EvaluationConfig, vectors: Float[np.ndarray, "N P"]
) -> tuple[Float[np.ndarray, "N K 3 H W"], float]:
    """A worker's part: pictures of some LoRAs, and the seconds that they took."""
    opened = _opened_once(folder, photos, place)
    layout = opened.model.canonicalizer.layout
    drawn, seconds = draw_pictures(
        opened.subjects, layout, torch.from_numpy(vectors).to(torch.get_default_device()), config
    )
    return drawn.cpu().numpy(), seconds


def fine_tune(folder: Path, photos: PhotoSource | None, cache: Path, config: EvaluationConfig, device: str) -> None:
    """A worker's part: LoRAs that are fine-tuned, into the cache."""
    begin_worker(device)
    opened = _open(folder, photos, cache, cache, None)
    people = opened.subjects.people(Split.HELD_OUT, config.people)
    lora_vectors(opened.subjects, opened.model, people, opened.fine_tuning, config, cache, lambda _: None)


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
    with TemporaryDirectory() as temporary:
        yield _open(find_synthesizer(model_name), photos, cache or Path(temporary), cache, report)


def _open(
    folder: Path,
    photos: PhotoSource | None,
    place: Path,
    cache: Path | None,
    report: Callable[[str], None] | None,
) -> Opened:
    model, fine_tuning = Synthesizer.from_pretrained(folder), fine_tuning_recipe(folder)
    if photos is None:
        if model.base not in WORLDS or not isinstance(model.encoder, WorldEncoder):
            raise UsageError(
                f"{folder}: expected photographs to score a model of {model.base} on, got none; give --data and --encoder, or "
                "--zoo ZOO to score it by weights"
            )
        return Opened(
            folder=folder, photos=None, place=place, cache=cache, model=model, fine_tuning=fine_tuning,
            subjects=DrawnSubjects(get_world(model.base), model.encoder.net),
        )  # fmt: skip
    if model.encoder is None:
        model = Synthesizer.from_pretrained(folder, encoder=photos.encoder)
    expected = model.encoder.record if model.encoder is not None else model.encoder_record

    def check(base: Base, data: Record, encoder: Encoder) -> None:
        if expected is not None and (wrong := difference(expected, encoder.record)):
            raise ModelError(f"{folder}: {wrong}; give the encoder that it was made with")

    photos = replace(photos, base=photos.base or model.base, family=model.canonicalizer.layout.base)
    return Opened(
        folder=folder, photos=photos, place=place, cache=cache, model=model, fine_tuning=fine_tuning,
        subjects=photos.open(place / _PREPARED, check=check, report=report),
    )  # fmt: skip


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
