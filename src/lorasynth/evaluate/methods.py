"""Every way to get a LoRA of a held-out person, scored the same: the table that `lorasynth evaluate` prints."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import render
from lorasynth.encoders.images import to_image
from lorasynth.evaluate.fine_tuned import fine_tuned_vectors
from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.memorisation import Memorisation
from lorasynth.evaluate.scoring import Scorer
from lorasynth.gallery import Split
from lorasynth.lora.factors import delta_W_norm2
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.subjects import GIVEN_PHOTO, persons_of
from lorasynth.worlds.world import World
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.store import Zoo


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated."""

    people: int = 100
    fine_tune_photos: int = 10
    guidance_scale: float = 2.0
    num_inference_steps: int = 20
    seed: int = 0


def lora_vectors(
    world: World,
    model: Synthesizer,
    persons: list[int],
    fine_tuning: AdaptConfig,
    config: EvaluationConfig,
    cache: Path | None,
    report: Callable[[str], None],
) -> dict[str, Float[Tensor, "N P"]]:
    """LoRAs of held-out people by every method that the model holds, from one photo each; fine-tuning gets ten."""
    embedding = world.embeddings(persons, 1, first=GIVEN_PHOTO)[:, 0]
    vectors = {"base": torch.zeros(len(persons), model.canonicalizer.layout.num_parameters)}
    for name in model.priors:
        vectors[name] = model.synthesize(embedding, seed=config.seed, prior=name)
    vectors["fine_tuned"] = fine_tuned_vectors(
        world, model.canonicalizer.layout, persons, fine_tuning, config.fine_tune_photos,
        seed=config.seed, cache=cache, report=report,
    )  # fmt: skip
    return vectors


def photo_seconds(world: World, model: Synthesizer, persons: list[int], seed: int = 0) -> dict[str, float]:
    """Seconds from one photo to a LoRA by each prior: the median of a few people, after one call that does not count."""
    photos = [to_image(picture) for picture in world.draw(persons[:6], [GIVEN_PHOTO] * len(persons[:6]), 256)]
    seconds = {}
    for name in model.priors:
        times = []
        for photo in photos:
            model(photo, seed=seed, prior=name, allow_outside=True)  # whether the guard likes it is another question
            times.append(model.last_seconds)
        seconds[name] = median(times[1:] or times)
    return seconds


def evaluate(
    world: World,
    model: Synthesizer,
    fine_tuning: AdaptConfig,
    config: EvaluationConfig,
    *,
    persons: list[int] | None = None,
    cache: Path | None = None,
    trained_on: Zoo | None = None,
    report: Callable[[str], None] = print,
) -> tuple[dict[str, Any], dict[str, Float[Tensor, "N K 3 H W"]]]:
    """Score every method on held-out people.

    Args:
        world: whose people.
        model: whose priors.
        fine_tuning: how the LoRAs that ours are compared with are trained.
        config: what is evaluated.
        persons: whom, instead of the first held-out people.
        cache: a folder that keeps the fine-tuned LoRAs; see `fine_tuned_vectors`.
        trained_on: the zoo that the model learned from: asks whether LoRAs are copies of it; see `memorisation`.
        report: gets a line now and then.

    Returns:
        The record of `docs/design.md` ("methods", "people", "photos", "split", …) with "seconds" ("photo_to_lora" by each prior,
        "picture") and perhaps "memorisation", and some pictures of each method. A method's "over_nearest" is by how much it is
        more similar than the nearest neighbour's LoRA, person by person.

    Raises:
        LayoutError, ZooError: `trained_on` is not the model's zoo; before any other work.
    """
    memorisation = Memorisation.fit(model, trained_on, report=report) if trained_on is not None else None
    persons = persons or persons_of(Split.HELD_OUT, config.people)
    scorer = Scorer.fit(world, persons, len(world.prompts))
    methods: dict[str, Any] = {}
    pictures: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    near: dict[str, Any] = {}
    drawing_seconds = []
    for name, vectors in lora_vectors(world, model, persons, fine_tuning, config, cache, report).items():
        start = time.perf_counter()
        drawn = render(
            world.base, list(world.prompts), model.canonicalizer.layout, vectors, seed=config.seed,
            guidance_scale=config.guidance_scale, num_inference_steps=config.num_inference_steps,
        )  # fmt: skip
        drawing_seconds.append((time.perf_counter() - start) / (len(drawn) * len(world.prompts)))
        methods[name] = scorer.score(drawn, list(world.prompts))
        scores[name] = scorer.similarity(drawn)
        methods[name]["delta_W_norm"] = (
            delta_W_norm2(model.canonicalizer.layout, vectors).clamp(min=0).sqrt().mean().item()
        )
        if memorisation is not None and name in model.priors:
            near[name] = memorisation.of(vectors)
        pictures[name] = drawn[:8]
        report(
            f"{name:12s} similarity {methods[name]['similarity']['mean']:.3f}  second {methods[name]['similarity2']['mean']:.3f}"
        )
    if "nearest" in scores:
        for name in scores.keys() - {"nearest"}:
            methods[name]["over_nearest"] = interval(scores[name] - scores["nearest"])
    real = scorer.real_photos(world)
    methods["real"] = scorer.score(real, [])
    pictures["real"] = real[:8]
    seconds = {"photo_to_lora": photo_seconds(world, model, persons, config.seed), "picture": median(drawing_seconds)}
    record = {
        "methods": methods, "people": len(persons), "photos": 1, "split": "held_out", "prompts": list(world.prompts),
        "guidance_scale": config.guidance_scale, "num_inference_steps": config.num_inference_steps, "seconds": seconds,
    }  # fmt: skip
    if memorisation is not None:
        record["memorisation"] = memorisation.record(near)
    return record, pictures
