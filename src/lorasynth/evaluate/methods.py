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
from lorasynth.base.sampling import guidance_of
from lorasynth.encoders.images import photo_tensor
from lorasynth.errors import UsageError
from lorasynth.evaluate.fine_tuned import ONE_PHOTO, fine_tuned_vectors
from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.memorisation import Memorisation
from lorasynth.evaluate.scoring import TEXT_ALIGNMENT, Scorer
from lorasynth.evaluate.text_alignment import TextAlignment
from lorasynth.gallery import Split
from lorasynth.lora.factors import delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.subjects import Subjects, mean_directions
from lorasynth.synthesizer import Synthesizer
from lorasynth.zoo.adapt import AdaptConfig
from lorasynth.zoo.store import Zoo


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated."""

    people: int = 100
    photos: int = 1  # of each person, that a LoRA is synthesised from
    scale: float | None = None  # of every prior; None: the one that was chosen for it
    methods: tuple[str, ...] | None = None  # of `method_names`; None: all
    fine_tune_photos: int = 10
    guidance_scale: float | None = None  # None: the base's usual one
    num_inference_steps: int = 20
    seed: int = 0


FINE_TUNED, FINE_TUNED_ONE_PHOTO, BASE, REAL = "fine_tuned", "fine_tuned_one_photo", "base", "real"
"""The rows that need no prior."""
GIVEN = "given"
"""Of pictures: the photo that a LoRA is synthesised from."""

Draw = Callable[[Float[Tensor, "N P"]], tuple[Float[Tensor, "N K 3 H W"], float]]
"""LoRAs -> a picture of each for each prompt, and the seconds that all took, added up over processes."""
_SHOWN = 8  # people


def method_names(model: Synthesizer) -> tuple[str, ...]:
    """Everything that can be scored, in the order of the table: rows that need no prior, and the model's priors."""
    return (BASE, *model.priors, FINE_TUNED_ONE_PHOTO, FINE_TUNED)


def asked_methods(model: Synthesizer, config: EvaluationConfig) -> tuple[str, ...]:
    """Those of `method_names` that are asked for.

    Raises:
        UsageError: the model does not hold one.
    """
    known = method_names(model)
    if unknown := [name for name in config.methods or () if name not in known]:
        raise UsageError(f"expected methods among {', '.join(known)}, got {', '.join(map(repr, unknown))}")
    return known if config.methods is None else tuple(name for name in known if name in config.methods)


def lora_vectors(
    subjects: Subjects,
    model: Synthesizer,
    people: list[int],
    fine_tuning: AdaptConfig,
    config: EvaluationConfig,
    cache: Path | None,
    report: Callable[[str], None],
) -> dict[str, Float[Tensor, "N P"]]:
    """LoRAs of held-out people by every method asked for, from as many photos of each. Fine-tuning gets one, or several."""
    # Of a subject with fewer photos each counts once.
    given = [photos.unique(dim=0) for photos in subjects.given(people, config.photos)]
    embedding, layout = mean_directions(given), model.canonicalizer.layout
    photos = {FINE_TUNED_ONE_PHOTO: ONE_PHOTO, FINE_TUNED: config.fine_tune_photos}
    settings = {} if config.scale is None else {"scale": config.scale}

    def made(name: str) -> Float[Tensor, "N P"]:
        if name == BASE:
            return torch.zeros(len(people), layout.num_parameters)
        if name in photos:
            return fine_tuned_vectors(
                subjects, layout, people, fine_tuning, photos[name], seed=config.seed, cache=cache, report=report
            )
        return model.synthesize(embedding, seed=config.seed, prior=name, **settings)

    return {name: made(name) for name in asked_methods(model, config)}


def draw_pictures(
    subjects: Subjects, layout: Layout, vectors: Float[Tensor, "N P"], config: EvaluationConfig
) -> tuple[Float[Tensor, "N K 3 H W"], float]:
    """What an evaluation looks at (`Draw`), drawn by this process."""
    start = time.perf_counter()
    drawn = render(
        subjects.base, subjects.prompts, layout, vectors, seed=config.seed,
        guidance_scale=guidance_of(subjects.base, config.guidance_scale),
        num_inference_steps=config.num_inference_steps,
    )  # fmt: skip
    return drawn, time.perf_counter() - start


def photo_seconds(subjects: Subjects, model: Synthesizer, people: list[int], seed: int = 0) -> dict[str, float]:
    """Seconds from one photo to a LoRA by each prior: the median of a few people, after one call that does not count."""
    photos = subjects.images(people[:6])
    seconds = {}
    for name in model.priors:
        times = []
        for photo in photos:
            model(photo, seed=seed, prior=name, allow_outside=True)  # whether the guard likes it is another question
            times.append(model.last_seconds)
        seconds[name] = median(times[1:] or times)
    return seconds


def evaluate(
    subjects: Subjects,
    model: Synthesizer,
    fine_tuning: AdaptConfig,
    config: EvaluationConfig,
    *,
    cache: Path | None = None,
    trained_on: Zoo | None = None,
    alignment: TextAlignment | None = None,
    draw: Draw | None = None,
    report: Callable[[str], None] = print,
) -> tuple[dict[str, Any], dict[str, Float[Tensor, "N K 3 H W"]]]:
    """Score every method on held-out people.

    Args:
        subjects: on which base, and whose photos.
        model: whose priors.
        fine_tuning: how the LoRAs that ours are compared with are trained.
        config: what is evaluated.
        cache: a folder that keeps the fine-tuned LoRAs (`fine_tuned_vectors`).
        trained_on: the zoo that the model learned from. Asks whether LoRAs are copies of it (`memorisation`).
        alignment: a CLIP model, for "text_alignment".
        draw: who draws the pictures; by default `draw_pictures`.
        report: gets a line now and then.

    Returns:
        The record of scores ("methods", "people", "photos", "split", …) with "seconds" ("photo_to_lora" by each prior,
        "picture") and perhaps "memorisation". Pictures of the first people by each method, and the photo that was given of each
        (`GIVEN`). A method's "over_nearest" is by how much it is
        more similar than the nearest neighbour's LoRA, person by person.

    Raises:
        UsageError: a method that the model does not hold.
        LayoutError, ZooError: `trained_on` is not the model's zoo. Nothing else was done.
    """
    memorisation = Memorisation.fit(model.canonicalizer, trained_on, report=report) if trained_on is not None else None
    people = subjects.people(Split.HELD_OUT, config.people)
    asked_methods(model, config)
    prompts = list(subjects.prompts)
    draw = draw or (lambda vectors: draw_pictures(subjects, model.canonicalizer.layout, vectors, config))
    scorer = Scorer.fit(subjects, people, len(prompts), alignment)
    shown = (*subjects.recognisers, *([] if alignment is None else [TEXT_ALIGNMENT]))
    methods: dict[str, Any] = {}
    pictures: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    near: dict[str, Any] = {}
    drawing_seconds = []
    for name, vectors in lora_vectors(subjects, model, people, fine_tuning, config, cache, report).items():
        drawn, seconds_of_all = draw(vectors)
        drawing_seconds.append(seconds_of_all / (len(drawn) * len(prompts)))
        methods[name] = scorer.score(drawn, prompts)
        scores[name] = scorer.similarity(drawn)
        methods[name]["delta_W_norm"] = (
            delta_W_norm2(model.canonicalizer.layout, vectors).clamp(min=0).sqrt().mean().item()
        )
        if memorisation is not None and name in model.priors:
            near[name] = memorisation.of(vectors)
        pictures[name] = drawn[:_SHOWN]
        means = [f"{score} {methods[name][score]['mean']:.3f}" for score in shown]
        means += [f"{what} obeyed {part:.3f}" for what, part in methods[name].get("obeyed", {}).items()]
        report(f"{name:20s} {'  '.join(means)}")
    if "nearest" in scores:
        for name in scores.keys() - {"nearest"}:
            methods[name]["over_nearest"] = interval(scores[name] - scores["nearest"])
    real = scorer.real_photos()
    methods[REAL] = scorer.score(real, [])
    pictures[REAL] = real[:_SHOWN]
    images = subjects.images(people[:_SHOWN])
    pictures[GIVEN] = torch.stack([photo_tensor(image, real.shape[-1]) for image in images])[:, None]
    seconds = {"photo_to_lora": photo_seconds(subjects, model, people, config.seed), "picture": median(drawing_seconds)}
    record = {
        "methods": methods, "people": len(people), "photos": config.photos, "split": "held_out", "prompts": prompts,
        "guidance_scale": guidance_of(subjects.base, config.guidance_scale),
        "num_inference_steps": config.num_inference_steps, "seconds": seconds,
    }  # fmt: skip
    if config.scale is not None:
        record["scale"] = config.scale
    if alignment is not None:
        record["clip"] = alignment.name
    if memorisation is not None:
        record["memorisation"] = memorisation.record(near)
    return record, pictures
