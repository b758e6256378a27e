"""From the fitted parts of an imported zoo to a synthesizer of a real base: no world, so nothing is drawn and weights must tell.

The stages before, canonical form, VAE and priors, are those of any zoo (`lorasynth.fitting`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasynth.canonical import Canonicalizer
from lorasynth.cards import base_card
from lorasynth.evaluate.weights import errors_of
from lorasynth.fitting import fit_prior_stage, fit_vae_stage
from lorasynth.pretrained import UNKNOWN
from lorasynth.prior import BASELINES, DiffusionPrior
from lorasynth.prior.baselines import Baseline
from lorasynth.recipes.recipe import BaseRecipe
from lorasynth.storage.reading import read_json
from lorasynth.synthesizer import Predictor, Synthesizer
from lorasynth.teaching import shortcoming
from lorasynth.tuning import choose_default, choose_settings, in_words
from lorasynth.vae import LoRAVAE
from lorasynth.zoo.store import Zoo

FOLDER = "synthesizer"
SCALES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)


def fit_all(recipe: BaseRecipe, zoo: Zoo, out: Path, *, report: Callable[[str], None] = print) -> dict[str, Any]:
    """All stages of a real base's recipe; the synthesizer goes to the folder "synthesizer" in ``out``.

    Returns:
        What the stages measured, by their names: "vae", "priors", "validation" (see `tune_by_weights`), and where it is.

    Raises:
        ZooError: the zoo is not the recipe's, or not large enough for it.
        OutputExistsError: a synthesizer is there.
    """
    recipe = recipe.fitted_to(zoo)
    record: dict[str, Any] = {"vae": fit_vae_stage(recipe, zoo, out), "priors": fit_prior_stage(recipe, zoo, out)}
    model = assemble(recipe, zoo, out, out / FOLDER, report=report)
    return {**record, "validation": model.record["made_from"]["validation"], "synthesizer": str(out / FOLDER)}


def put_together(recipe: BaseRecipe, zoo: Zoo, fitted: Path) -> Synthesizer:
    """A synthesizer of the parts that the stages wrote to ``fitted``, its priors with no settings yet."""
    priors: dict[str, Predictor] = {
        config.conditioning: DiffusionPrior.load(fitted / "priors" / f"{config.conditioning}.safetensors")
        for config in recipe.priors
    }
    embedding_dim = next(p.denoiser.embedding_dim for p in priors.values() if isinstance(p, DiffusionPrior))
    priors |= {name: Baseline.load(fitted / "priors" / f"{name}.safetensors") for name in BASELINES}
    nobody_said = {"kind": UNKNOWN, "name": UNKNOWN, "dim": embedding_dim}
    return Synthesizer(
        base=zoo.recipe.get("base") or recipe.base, encoder_record=zoo.recipe.get("encoder") or nobody_said,
        canonicalizer=Canonicalizer.load(fitted / "canonical.safetensors"), vae=LoRAVAE.load(fitted / "vae.safetensors"),
        priors=priors, default_prior=recipe.priors[0].conditioning,
        picture_size=zoo.recipe.get("picture_size") or recipe.picture_size,
    )  # fmt: skip


def tune_by_weights(
    model: Synthesizer, zoo: Zoo, loras: int, *, report: Callable[[str], None] = print
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Choose each prior's settings, and the default prior, by the error of ΔW on validation LoRAs; sets them on ``model``.

    Where pictures can be drawn they are what to choose by (`lorasynth.world_fitting.tune`): the error of weights likes smaller
    LoRAs than likeness does.

    Returns:
        The relative error of every setting tried, and `errors_of` of each prior with the settings chosen.
    """
    _, rows, embeddings = zoo.open_rows("validation")
    vectors, embedding = rows[:loras], embeddings[:loras, 0]

    def errors(name: str, **settings: Any) -> dict[str, float]:
        return errors_of(model, vectors, model.synthesize(embedding, prior=name, **settings))

    scores = choose_settings(model, SCALES, lambda name, settings: -errors(name, **settings)["relative_error"])
    choose_default(model, scores, report=report)
    tried = {name: {setting: -score for setting, score in each.items()} for name, each in scores.items()}
    chosen = {name: errors(name) for name in model.priors}  # each has the settings chosen
    for name, error in chosen.items():
        settings = in_words(model.settings.get(name, {}))
        report(f"{name}: ΔW error {error['relative_error']:.3f} on validation LoRAs {settings}")
    return tried, chosen


def assemble(
    recipe: BaseRecipe, zoo: Zoo, fitted: Path, out: Path, *, report: Callable[[str], None] = print
) -> Synthesizer:
    """Put fitted parts together, choose sampler settings, and write a synthesizer's folder with its card.

    Raises:
        OutputExistsError: a synthesizer is there.
    """
    recipe = recipe.fitted_to(zoo)
    model = put_together(recipe, zoo, fitted)
    tried, errors = tune_by_weights(model, zoo, recipe.tune_loras, report=report)
    splits = [item.split for item in zoo.items]
    made_from = {
        "recipe": recipe.name, "zoo_loras": splits.count("train"), "layout": recipe.layout or zoo.layout.hash,
        "vae": read_json(fitted / "vae.json"), "priors": read_json(fitted / "priors.json"),
        "tune_loras": min(recipe.tune_loras, splits.count("validation")), "settings_tried": tried, "validation": errors,
    }  # fmt: skip
    if said := shortcoming(errors):
        report(said)
    model.card, model.record = base_card(recipe, zoo, model, made_from), {"made_from": made_from}
    model.save_pretrained(out)
    return model
