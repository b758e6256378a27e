"""From the fitted parts to a synthesizer's folder: settings chosen by pictures where there are some, else by weights."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical import Canonicalizer
from lorasynth.devices import begin_worker
from lorasynth.evaluate.weights import errors_of
from lorasynth.gallery import Role
from lorasynth.gallery.folder import subject_of
from lorasynth.pipeline.card import base_card, draw_gallery, synthesizer_card
from lorasynth.pipeline.choosing import Settings, chosen_score, format_settings
from lorasynth.pipeline.measured import END_TO_END, read_measured
from lorasynth.pipeline.tuning import Scores, TuningByPictures, tune_by_weights
from lorasynth.pipeline.workspace import SYNTHESIZER, Workspace, silent
from lorasynth.prior import BASELINES, DiffusionPrior, MeanPrior, Predictor
from lorasynth.prior.baselines import Baseline
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.teaching import shortcoming_of_model
from lorasynth.vae import LoRAVAE
from lorasynth.workers.helpers import process_pool
from lorasynth.workers.main_guard import require_main_guard

Stage = Literal["priors", "refined", "end-to-end"]


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


def assemble(work: Workspace, workers: int = 1) -> Synthesizer:
    """Put fitted parts together, choose sampler settings, and write a synthesizer's folder with its card.

    Args:
        work: the training. Its folder has the stages before.
        workers: processes that choose settings by pictures, one prior each at a time.

    Raises:
        OutputExistsError: a synthesizer is there.
    """
    model = put_together(work, "priors" if work.subjects is None else END_TO_END)
    drawn = isinstance(work.subjects, DrawnSubjects)
    made_from = _made_from(work)
    record: dict[str, Any] = {"fine_tuning": asdict(work.recipe.fine_tuning)}
    if work.subjects is not None:
        tuning = _tuned(work, model, workers)
        made_from |= {"settings_tried": tuning.tried, "obeyed": tuning.asked, "chosen_on": tuning.seen}
    if not drawn:
        held = work.rows.validation[: work.recipe.tune_loras]
        vectors, embedding = work.rows.vectors[held], work.rows.embeddings[held, 0]
        if work.subjects is None:
            made_from["settings_tried"] = tune_by_weights(model, vectors, embedding, report=work.report)
        else:
            made_from["similarity"] = {
                "base": tuning.base_similarity(),
                "best": max(chosen_score(model, tuning.tried, name) for name in tuning.tried),
            }
        made_from["validation"] = validation_errors(model, vectors, embedding, report=work.report)
        if said := shortcoming_of_model(made_from):
            work.report(said)
    if (data := work.zoo.recipe.get("data")) and "instance_prompt" in data:
        record["subject"] = subject_of(data["instance_prompt"])
    model.record = record | {"made_from": made_from}
    model.card = (synthesizer_card if drawn else base_card)(work.fitted, work.zoo, model, made_from)
    if isinstance(work.subjects, DrawnSubjects):
        model.show(draw_gallery(model, work.subjects))
    model.save_pretrained(work.folder / SYNTHESIZER)
    return model


def _tuned(work: Workspace, model: Synthesizer, workers: int) -> TuningByPictures:
    """Settings and default prior by pictures, by as many processes as are given."""
    tuning = _tuning(work, model, work.report)
    names = [name for name, prior in model.priors.items() if not isinstance(prior, MeanPrior)]
    if workers == 1:
        tuning.choose(names)
    else:
        require_main_guard()
        device, sent = str(torch.get_default_device()), replace(work, report=silent)
        with process_pool(min(workers, len(names)), begin_worker, device) as pool:
            parts = pool.map(_tune_one, [sent] * len(names), names)
            for name, (settings, tried, asked, said) in zip(names, parts, strict=True):
                model.settings[name] = settings
                tuning.tried |= tried
                tuning.asked |= asked
                for line in said:
                    work.report(line)
    tuning.choose_default()
    return tuning


def _tune_one(work: Workspace, name: str) -> tuple[Settings, Scores, Scores, list[str]]:
    """One prior's settings, what was tried and asked, and what is to be reported."""
    said: list[str] = []
    model = put_together(work, END_TO_END)
    tuning = _tuning(work, model, said.append)
    tuning.choose([name])
    return model.settings[name], tuning.tried, tuning.asked, said


def _tuning(work: Workspace, model: Synthesizer, report: Callable[[str], None]) -> TuningByPictures:
    return TuningByPictures(work.require_subjects(), model, work.recipe.tune_people, report=report)


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
