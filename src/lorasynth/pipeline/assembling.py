"""From the fitted parts to a synthesizer's folder: settings chosen by pictures where there are some, else by weights."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical import Canonicalizer
from lorasynth.evaluate.identity import likeness
from lorasynth.evaluate.prompt_classifier import drawn_obedience, prompt_judge
from lorasynth.evaluate.weights import errors_of
from lorasynth.gallery import Role
from lorasynth.pipeline.card import base_card, draw_gallery, synthesizer_card
from lorasynth.pipeline.choosing import Score, choose_default, choose_settings, chosen_score, format_settings
from lorasynth.pipeline.measured import END_TO_END, read_measured
from lorasynth.pipeline.workspace import SYNTHESIZER, Workspace
from lorasynth.prior import BASELINES, DiffusionPrior, Predictor
from lorasynth.prior.baselines import Baseline
from lorasynth.subjects import Subjects
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.teaching import shortcoming_of_model
from lorasynth.vae import LoRAVAE

PICTURE_SCALES = (0.7, 0.85, 1.0, 1.15, 1.3, 1.6, 2.0, 2.4)
WEIGHT_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)
Stage = Literal["priors", "refined", "end-to-end"]
Scores = dict[str, dict[str, float]]
"""By prior, and by the settings in words."""


def put_together(work: Workspace, stage: Stage) -> Synthesizer:
    """A synthesizer of the parts that the stages wrote. Of settings it has the sampler's steps, if trained through the base.

    Args:
        work: whose priors, and the folder.
        stage: whose VAE and priors to take: "priors" (what the zoo teaches), "refined" (its diffusion priors, each then trained
            through the base) or "end-to-end" (then all of them with the VAE).
    """
    fitted, recipe, encoder = work.folder, work.fitted, work.encoder_fields()
    last = fitted / END_TO_END if stage == END_TO_END else fitted
    priors: dict[str, Predictor] = {}
    for config in recipe.priors:
        name = f"{config.conditioning}.safetensors"
        priors[config.conditioning] = DiffusionPrior.load(last / ("refined" if stage == "refined" else "priors") / name)
    trained = {"priors": None, "refined": recipe.redraw, END_TO_END: recipe.end_to_end.through}[stage]
    steps = {} if trained is None else {name: {"num_inference_steps": trained.num_inference_steps} for name in priors}
    priors |= {n: Baseline.load(last / "priors" / f"{n}.safetensors") for n in BASELINES}
    return Synthesizer(
        base=work.base_name, canonicalizer=Canonicalizer.load(fitted / "canonical.safetensors"),
        vae=LoRAVAE.load(last / "vae.safetensors"), priors=priors, default_prior=recipe.priors[0].conditioning,
        settings=steps, picture_size=work.picture_size, **encoder,  # type: ignore[arg-type]
    )  # fmt: skip


def tune_by_pictures(
    subjects: Subjects, model: Synthesizer, people: int, *, report: Callable[[str], None] = print
) -> tuple[Scores, Scores]:
    """Choose each prior's settings, and the default prior, by pictures of validation people, and set them on ``model``.

    The most similar are chosen of those that show what was asked for (`lorasynth.pipeline.choosing.LESS_OBEDIENT`).

    Returns:
        Similarity of every setting tried, and the part of pictures that show what was asked for, of those it was asked of.
    """
    chosen = subjects.people(Role.CHOOSING, people)
    embedding, centroids = subjects.given(chosen)[:, 0], subjects.centroids(chosen)
    judge = prompt_judge(subjects.base, subjects.extras())

    def score(name: str, settings: dict[str, Any]) -> float:
        vectors = model.synthesize(embedding, prior=name, **settings)
        value = likeness(subjects, model.canonicalizer.layout, vectors, centroids)
        report(f"{name} {format_settings(settings)}: likeness {value:.3f}")
        return value

    asked: Scores = {}

    def obeyed(name: str, settings: dict[str, Any]) -> float:
        of_prior, words = asked.setdefault(name, {}), format_settings(settings)
        if words not in of_prior:
            vectors = model.synthesize(embedding, prior=name, **settings)
            of_prior[words] = drawn_obedience(
                judge, subjects.base, subjects.prompts, model.canonicalizer.layout, vectors
            )
            report(f"{name} {words}: {of_prior[words]:.3f} of pictures show what was asked for")
        return of_prior[words]

    judged: Score | None = obeyed if len(set(subjects.prompts)) > 1 else None
    tried = choose_settings(model, PICTURE_SCALES, score, judged)
    choose_default(model, tried, judged, report=report)
    if judged is not None:
        judged(model.default_prior, model.settings[model.default_prior])  # for the card
    return tried, asked


def base_similarity(subjects: Subjects, model: Synthesizer, people: int) -> float:
    """Similarity of the base's own pictures to the people of `tune_by_pictures`: what a LoRA has to add to."""
    centroids = subjects.centroids(subjects.people(Role.CHOOSING, people))
    layout = model.canonicalizer.layout
    return likeness(subjects, layout, torch.zeros(len(centroids), layout.num_parameters), centroids)


def tune_by_weights(
    model: Synthesizer,
    vectors: Float[Tensor, "N P"],
    embedding: Float[Tensor, "N D"],
    *,
    report: Callable[[str], None] = print,
) -> Scores:
    """Choose each prior's settings, and the default prior, by the error of ΔW on validation LoRAs, and set them.

    Where there are pictures, choose by them (`tune_by_pictures`): the error of weights likes smaller LoRAs than similarity does.

    Returns:
        The relative error of every setting tried.
    """

    def score(name: str, settings: dict[str, Any]) -> float:
        return -errors_of(model, vectors, model.synthesize(embedding, prior=name, **settings))["relative_error"]

    scores = choose_settings(model, WEIGHT_SCALES, score)
    choose_default(model, scores, report=report)
    return {name: {setting: -score for setting, score in each.items()} for name, each in scores.items()}


def validation_errors(
    model: Synthesizer,
    vectors: Float[Tensor, "N P"],
    embedding: Float[Tensor, "N D"],
    *,
    report: Callable[[str], None] = print,
) -> Scores:
    """`errors_of` each prior, with the settings chosen, on validation LoRAs."""
    errors = {name: errors_of(model, vectors, model.synthesize(embedding, prior=name)) for name in model.priors}
    for name, error in errors.items():
        settings = format_settings(model.settings.get(name, {}))
        report(f"{name}: ΔW error {error['relative_error']:.3f} on validation LoRAs {settings}")
    return errors


def assemble(work: Workspace) -> Synthesizer:
    """Put fitted parts together, choose sampler settings, and write a synthesizer's folder with its card.

    Raises:
        OutputExistsError: a synthesizer is there.
    """
    model = put_together(work, "priors" if work.subjects is None else END_TO_END)
    drawn = isinstance(work.subjects, DrawnSubjects)
    made_from, record = _made_from(work), {"fine_tuning": asdict(work.recipe.fine_tuning)}
    if work.subjects is not None:
        tried, asked = tune_by_pictures(work.subjects, model, work.recipe.tune_people, report=work.report)
        made_from |= {"settings_tried": tried, "obeyed": asked}
    if not drawn:
        held = work.rows.validation[: work.recipe.tune_loras]
        vectors, embedding = work.rows.vectors[held], work.rows.embeddings[held, 0]
        if work.subjects is None:
            made_from["settings_tried"] = tune_by_weights(model, vectors, embedding, report=work.report)
        else:
            made_from["similarity"] = {
                "base": base_similarity(work.subjects, model, work.recipe.tune_people),
                "best": max(chosen_score(model, tried, name) for name in tried),
            }
        made_from["validation"] = validation_errors(model, vectors, embedding, report=work.report)
        if said := shortcoming_of_model(made_from):
            work.report(said)
    model.record = record | {"made_from": made_from}
    model.card = (synthesizer_card if drawn else base_card)(work.fitted, work.zoo, model, made_from)
    if isinstance(work.subjects, DrawnSubjects):
        model.show(draw_gallery(model, work.subjects))
    model.save_pretrained(work.folder / SYNTHESIZER)
    return model


def _made_from(work: Workspace) -> dict[str, Any]:
    """What the card says of the synthesizer's making: on a drawn world's base, or on a real one."""
    recipe, splits = work.fitted, [item.split for item in work.zoo.items]
    drawn, with_pictures = isinstance(work.subjects, DrawnSubjects), work.subjects is not None
    refined = drawn and recipe.refined_apart
    measured = read_measured(work.folder, recipe.prior_names, refined=refined, end_to_end=with_pictures)
    if drawn:
        assert recipe.zoo is not None
        return {
            "zoo_people": splits.count("train"), "photos_each": recipe.zoo.photos, "rank": recipe.zoo.rank, "refined": {},
            **measured,
        }  # fmt: skip
    made_from = {
        "recipe": recipe.name, "zoo_loras": splits.count("train"), "layout": recipe.layout or work.zoo.layout.hash, **measured,
        "tune_loras": min(recipe.tune_loras, splits.count("validation")),
    }  # fmt: skip
    if work.subjects is not None:
        made_from["teachers"] = len(work.subjects.everybody(Role.ZOO))
    return made_from
