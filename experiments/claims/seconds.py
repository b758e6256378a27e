"""(j) What do seconds buy? The synthesizer's LoRA, refined for some steps, against fine-tuning from nothing."""

import time
from dataclasses import replace
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from evidence.context import ExperimentContext, resemblance
from evidence.experiment import (
    MATTERS,
    Claim,
    Config,
    Criterion,
    Curves,
    Experiment,
    Line,
    Verdict,
    decide,
    more,
)
from evidence.statistics import Figures, Results, difference, scores
from lorasynth.base import Photos
from lorasynth.gallery import Split
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.subjects import GIVEN_PHOTO, TUNED_FROM, persons_of
from lorasynth.worlds.world import World
from lorasynth.zoo.adapt import FINE_TUNING, adapt
from lorasynth.zoo.initialisation import random_init

PHOTOS = 10  # that fine-tuning is given, and refinement where it does not say one
TIMED = 3  # people whose LoRAs are made one by one, for the seconds
BANK = 16
ZERO_SHOT = "zero-shot"


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """LoRAs of held-out people by the world's synthesizer, by fine-tuning, or by fine-tuning from the synthesizer's.

    Fine-tuning is `FINE_TUNING` with another number of steps, and the learning rate that is best for so many.

    Returns:
        `resemblance`'s figures; "seconds", the median of a LoRA made alone, from the decoded photo (fine-tuning: from latents)
        on, in CPU time, which others on the machine do not change; "steps".
    """
    model, world = context.synthesizer, context.world
    persons = persons_of(Split.HELD_OUT, context.people)
    pictures = world.draw(persons, [GIVEN_PHOTO] * len(persons), world.picture_size)
    photos = world.photos(persons, config["photos"], GIVEN_PHOTO if config["photos"] == 1 else TUNED_FROM)

    def made(part: slice) -> Float[Tensor, "n P"]:
        shown = photos.subjects(torch.arange(len(photos))[part])
        return _made(world, model, pictures[part], shown, config, seed)

    vectors = torch.cat([made(slice(start, start + BANK)) for start in range(0, len(persons), BANK)])
    taken = []
    for i in range(min(TIMED, len(persons))):
        start = time.process_time()
        made(slice(i, i + 1))
        taken.append(time.process_time() - start)
    figures = resemblance(DrawnSubjects(world), persons, model.canonicalizer.layout, vectors)
    return figures | {"seconds": median(taken), "steps": float(config["fitting_steps"])}


def _made(
    world: World, model: Synthesizer, pictures: Float[Tensor, "n 3 H W"], photos: Photos, config: Config, seed: int
) -> Float[Tensor, "n P"]:
    """A LoRA for each person: from where it starts, so many steps."""
    layout, n = model.canonicalizer.layout, len(pictures)
    if config["start"] == "synthesized":
        with torch.no_grad():
            vectors = model.synthesize(world.embedder(pictures), seed=seed)
    else:
        vectors = random_init(layout, seed).expand(n, -1)
    if not config["fitting_steps"]:
        return vectors
    settings = replace(FINE_TUNING, steps=config["fitting_steps"], learning_rate=config["learning_rate"], seed=seed)
    return adapt(world.base, layout, vectors, photos, settings)


def beats_equal_seconds(figure: str) -> Criterion:
    """Zero-shot has more of a figure than the quickest fine-tuning that takes at least its seconds."""

    def judge(results: Results) -> Verdict:
        seconds = {cell: scores(results, cell, "seconds").mean().item() for cell in results}
        tuned = [cell for cell in results if cell.startswith("tuned")]
        slower = [cell for cell in tuned if seconds[cell] >= seconds[ZERO_SHOT]]
        rival = min(slower, key=seconds.__getitem__) if slower else max(tuned, key=seconds.__getitem__)
        gain = difference(results, ZERO_SHOT, rival, figure)
        words = f"{figure}, zero-shot ({seconds[ZERO_SHOT]:.2f} s) minus {rival} ({seconds[rival]:.2f} s)"
        return decide(words, gain, MATTERS)

    words = (
        f"{figure} of zero-shot minus that of the quickest fine-tuning that takes as long or longer: the whole interval is above "
        f"{MATTERS:g} (refuted: below)"
    )
    return Criterion(words=words, judge=judge)


def _cell(start: str, steps: int, learning_rate: float, photos: int = PHOTOS) -> Config:
    return {"start": start, "fitting_steps": steps, "learning_rate": learning_rate, "photos": photos}


LINES = (
    Line("zero-shot", "similarity", (ZERO_SHOT,)),
    Line("refined on ten photos", "similarity", tuple(f"refined-{n}" for n in (5, 20, 50))),
    Line("fine-tuned on ten photos", "similarity", tuple(f"tuned-{n}" for n in (1, 5, 20, 50, 200))),
)

EXPERIMENT = Experiment(
    name="seconds",
    title="The world's synthesizer's LoRA as it is and after steps of fine-tuning, against fine-tuning from nothing, over "
    "seconds of CPU time of one thread (learning rates chosen on validation people for each number of steps; of 200 steps, that "
    "of the LoRA which `lorasynth evaluate` compares with)",
    cells={
        ZERO_SHOT: _cell("synthesized", 0, 0.0),
        "refined-5": _cell("synthesized", 5, 2e-3),
        "refined-20": _cell("synthesized", 20, 5e-4),
        "refined-50": _cell("synthesized", 50, 5e-4),
        "refined-one-photo-20": _cell("synthesized", 20, 2e-3, 1),
        "tuned-1": _cell("random", 1, 6e-2),
        "tuned-5": _cell("random", 5, 6e-2),
        "tuned-20": _cell("random", 20, 6e-2),
        "tuned-50": _cell("random", 50, 2.5e-2),
        "tuned-200": _cell("random", 200, FINE_TUNING.learning_rate),
        "tuned-one-photo-50": _cell("random", 50, 1e-2, 1),
    },
    run=run,
    curves=tuple(Curves(x=x, y="similarity", lines=LINES) for x in ("steps", "seconds")),
    claims=(
        Claim(
            text="Zero-shot beats fine-tuning of equal seconds",
            source="the paper's promise",
            criterion=beats_equal_seconds("similarity"),
        ),
        Claim(
            text="Zero-shot from one photo beats 50 steps of fine-tuning on that photo",
            source="ours",
            criterion=more("similarity", ZERO_SHOT, "tuned-one-photo-50"),
        ),
        Claim(
            text="Refinement from zero-shot reaches fine-tuned likeness in fewer steps: 5 instead of 50",
            source="ours",
            criterion=more("similarity", "refined-5", "tuned-50", bar=-MATTERS),
        ),
        Claim(
            text="Twenty steps of refinement on ten photos gain likeness",
            source="ours",
            criterion=more("similarity", "refined-20", ZERO_SHOT),
        ),
        Claim(
            text="Twenty steps of refinement on the one photo gain likeness to other photos",
            source="ours",
            criterion=more("similarity", "refined-one-photo-20", ZERO_SHOT),
        ),
    ),
)
