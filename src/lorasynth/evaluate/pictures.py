"""A model and the people to score it on, opened by name: a drawn world's own, or those of photographs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, difference
from lorasynth.errors import ModelError, UsageError
from lorasynth.evaluate.methods import EvaluationConfig, evaluate
from lorasynth.storage.reading import read_json
from lorasynth.storage.schema import ANYTHING, number, one_of, record, whole
from lorasynth.subjects import Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import WORLDS, get_world
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.store import Zoo

_PREPARED = "prepared"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is scored, and on whom."""

    model: Synthesizer
    subjects: Subjects
    fine_tuning: AdaptConfig

    def evaluate(
        self,
        config: EvaluationConfig,
        *,
        cache: Path | None = None,
        trained_on: Zoo | None = None,
        report: Callable[[str], None] = print,
    ) -> tuple[dict[str, Any], dict[str, Float[Tensor, "N K 3 H W"]]]:
        """See `lorasynth.evaluate.methods.evaluate`."""
        return evaluate(
            self.subjects, self.model, self.fine_tuning, config, cache=cache, trained_on=trained_on, report=report
        )


@contextmanager
def open_for_pictures(
    folder: Path, photos: PhotoSource | None, cache: Path | None, *, report: Callable[[str], None] = print
) -> Iterator[Opened]:
    """Open a synthesizer and people to score it on.

    Args:
        folder: of the synthesizer.
        photos: whose, on the model's own base where they name none. None for a drawn world's own people.
        cache: keeps what is read of photos. Without it, that lasts as long as the context.
        report: gets a line on the photos.

    Raises:
        ModelError: the synthesizer cannot be read, or was made with another encoder.
        UsageError: there are no photographs, and the model is not of a drawn world.
    """
    model, fine_tuning = Synthesizer.from_pretrained(folder), fine_tuning_recipe(folder)
    if photos is None:
        if model.base not in WORLDS or not isinstance(model.encoder, WorldEncoder):
            raise UsageError(
                f"{folder}: expected photographs to score a model of {model.base} on, got none; give --data and --encoder, or "
                "--zoo ZOO to score it by weights"
            )
        yield Opened(model=model, subjects=DrawnSubjects(get_world(model.base)), fine_tuning=fine_tuning)
        return
    if model.encoder is None:
        model = Synthesizer.from_pretrained(folder, encoder=photos.encoder)
    expected = model.encoder.record if model.encoder is not None else model.encoder_record

    def check(base: Base, data: Record, encoder: Encoder) -> None:
        if expected is not None and (wrong := difference(expected, encoder.record)):
            raise ModelError(f"{folder}: {wrong}; another's embeddings mean nothing to it")

    photos = replace(photos, base=photos.base or model.base, family=model.canonicalizer.layout.base)
    with TemporaryDirectory() as temporary:
        kept = Path(temporary if cache is None else cache) / _PREPARED
        yield Opened(model=model, subjects=photos.open(kept, check=check, report=report), fine_tuning=fine_tuning)


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
