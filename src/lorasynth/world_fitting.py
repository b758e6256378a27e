"""From what a zoo taught to a drawn world's synthesizer: through the base model, then settings by pictures, then a folder."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import torch

from lorasynth.canonical import Canonicalizer
from lorasynth.devices import use_device
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.evaluate.identity import likeness, person_centroids
from lorasynth.fitting import delta_W_errors, fit_baselines, latents_of, open_zoo_rows
from lorasynth.prior import BASELINES, DiffusionPrior
from lorasynth.prior.baselines import Baseline
from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.refining import end_to_end, latent_net, refine, train_critic
from lorasynth.storage.files import write_json, write_tensors
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.reading import read_json
from lorasynth.synthesizer import Predictor, Synthesizer
from lorasynth.training import ALONE, Processes
from lorasynth.tuning import choose_default, choose_settings, in_words
from lorasynth.vae import LoRAVAE
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.subjects import GIVEN_PHOTO, SCORED_FROM, Role, persons_of
from lorasynth.worlds.world import World, get_world, load_recogniser
from lorasynth.zoo.store import Zoo

SCALES = (0.7, 1.0, 1.3, 1.6, 2.0, 2.4)

END_TO_END: Final = "end-to-end"  # folder of what is trained last

Stage = Literal["priors", "refined", "end-to-end"]


def tune(
    world: World, model: Synthesizer, people: int, *, report: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Choose each prior's settings, and the default prior, by likeness on validation people; sets them on ``model``.

    Returns:
        Likeness of every setting tried.
    """
    persons = persons_of(Role.CHOOSING, people)
    embedding = world.embeddings(persons, 1, first=GIVEN_PHOTO)[:, 0]
    centroids = person_centroids(world, persons, world.encoder, SCORED_FROM)

    def score(name: str, settings: dict[str, Any]) -> float:
        vectors = model.synthesize(embedding, prior=name, **settings)
        value = likeness(world, model.canonicalizer.layout, vectors, centroids)
        report(f"{name} {in_words(settings)}: likeness {value:.3f}")
        return value

    tried = choose_settings(model, SCALES, score)
    choose_default(model, tried, report=report)
    return tried


def put_together(recipe: WorldRecipe, fitted: Path, stage: Stage) -> Synthesizer:
    """A synthesizer of the parts that the stages wrote to ``fitted``, its priors with no settings yet.

    Args:
        recipe: whose world and priors.
        fitted: the working folder.
        stage: whose VAE and priors to take: "priors" (what the zoo teaches), "refined" (its diffusion priors, each then trained
            through the base) or "end-to-end" (then all of them with the VAE).
    """
    world = get_world(recipe.zoo.world)
    last = fitted / END_TO_END if stage == "end-to-end" else fitted
    priors: dict[str, Predictor] = {}
    for config in recipe.priors:
        name = f"{config.conditioning}.safetensors"
        priors[config.conditioning] = DiffusionPrior.load(last / ("refined" if stage == "refined" else "priors") / name)
    priors |= {n: Baseline.load(last / "priors" / f"{n}.safetensors") for n in BASELINES}
    return Synthesizer(
        base=recipe.zoo.world, encoder=WorldEncoder(world),
        canonicalizer=Canonicalizer.load(fitted / "canonical.safetensors"), vae=LoRAVAE.load(last / "vae.safetensors"),
        priors=priors, default_prior=recipe.priors[0].conditioning, picture_size=world.picture_size,
    )  # fmt: skip


def critic_stage(recipe: WorldRecipe, out: Path, processes: Processes = ALONE) -> Path:
    """Train the critic that priors are refined against, unless it is there; returns its file in ``out``.

    Of several processes the main one trains and writes it, and the others wait.
    """
    path = out / "critic.safetensors"
    if processes.is_main and not path.exists():
        write_tensors(path, train_critic(get_world(recipe.zoo.world), recipe.refine).state_dict())
    processes.wait()
    return path


def _critic(recipe: WorldRecipe, out: Path, processes: Processes) -> LatentNet:
    world = get_world(recipe.zoo.world)
    return load_recogniser(latent_net(world), critic_stage(recipe, out, processes))


def refine_stage(
    recipe: WorldRecipe, out: Path, names: Sequence[str] | None = None, processes: Processes = ALONE
) -> dict[str, dict[str, Any]]:
    """Train diffusion priors, one by one, through the base model; write them to ``out / "refined"``.

    Of several processes, which share every batch, the main one writes.

    Args:
        recipe: which base, priors and settings.
        out: the working folder of the stages before.
        names: which priors; all of the recipe's by default. They have nothing to do with each other, so that several processes
            may each do one, after `critic_stage`.
        processes: that train each together.

    Returns:
        `refine`'s figures of each, on "photo" and then on "drawn" states.
    """
    world, model, critic = (
        get_world(recipe.zoo.world),
        put_together(recipe, out, "priors"),
        _critic(recipe, out, processes),
    )
    metrics: dict[str, dict[str, Any]] = {}
    for name in names or [config.conditioning for config in recipe.priors]:
        metrics[name] = {
            config.states: refine(
                world, model, name, critic, config, run_dir=out / f"run-{config.states}-{name}", processes=processes
            )
            for config in (recipe.refine, recipe.redraw)
        }
        if processes.is_main:
            make_folder(out / "refined")
            model.priors[name].save(out / "refined" / f"{name}.safetensors")
            write_json(out / "refined" / f"{name}.json", metrics[name])
    return metrics


def refine_with_workers(recipe: WorldRecipe, out: Path, workers: int) -> dict[str, dict[str, Any]]:
    """`refine_stage` of all priors, each in a process of one thread, ``workers`` at once.

    Raises:
        UsageError: the running script cannot be imported by workers.
    """
    names = [config.conditioning for config in recipe.priors]
    if workers == 1:
        return refine_stage(recipe, out)
    require_main_guard()
    critic_stage(recipe, out)
    device = str(torch.get_default_device())
    with multiprocessing.get_context("spawn").Pool(min(workers, len(names)), _begin_worker, (device,)) as pool:
        parts = pool.starmap(refine_stage, [(recipe, out, [name]) for name in names], chunksize=1)
    return {name: figures for part in parts for name, figures in part.items()}


def _begin_worker(device: str) -> None:
    torch.set_num_threads(1)
    use_device(device)


def end_to_end_stage(recipe: WorldRecipe, zoo: Zoo, out: Path, processes: Processes = ALONE) -> dict[str, Any]:
    """Train all diffusion priors and the VAE together through the base; write them to ``out / "end-to-end"``.

    The baselines, which the zoo alone teaches, are fitted again to the VAE as it is then. Of several processes, which share every
    batch, the main one does that, and writes.

    Returns:
        `end_to_end`'s figures, and those on ΔW that `fit_vae_stage` gives, of this VAE.
    """
    data, model = open_zoo_rows(recipe, zoo), put_together(recipe, out, "refined" if recipe.refined_apart else "priors")
    names = [config.conditioning for config in recipe.priors]
    x = model.canonicalizer.view(data.vectors)
    metrics: dict[str, Any] = end_to_end(
        get_world(recipe.zoo.world), model, names, _critic(recipe, out, processes), x.take(data.train), recipe.end_to_end,
        run_dir=out / "run-end-to-end", processes=processes,
    )  # fmt: skip
    if not processes.is_main:
        return metrics
    make_folder(out / END_TO_END / "priors")
    model.vae.save(out / END_TO_END / "vae.safetensors")
    for name in names:
        model.priors[name].save(out / END_TO_END / "priors" / f"{name}.safetensors")
    mean, _ = latents_of(model.vae, x)
    metrics["ridge"] = {"lambda": fit_baselines(recipe, data, mean, out / END_TO_END / "priors")}
    metrics |= delta_W_errors(data, model.canonicalizer, model.vae)
    write_json(out / END_TO_END / "metrics.json", metrics)
    return metrics


def assemble(
    recipe: WorldRecipe, zoo: Zoo, fitted: Path, out: Path, card: str, *, report: Callable[[str], None] = print
) -> Synthesizer:
    """Put fitted parts together, choose sampler settings, and write a synthesizer's folder."""
    world, model = get_world(recipe.zoo.world), put_together(recipe, fitted, END_TO_END)
    tried = tune(world, model, recipe.tune_people, report=report)
    names = [config.conditioning for config in recipe.priors]
    record = {
        "fine_tuning": asdict(recipe.fine_tuning),
        "made_from": {
            "zoo_people": sum(i.split == "train" for i in zoo.items), "photos_each": recipe.zoo.photos, "rank": recipe.zoo.rank,
            "vae": read_json(fitted / "vae.json"), "priors": read_json(fitted / "priors.json"),
            "refined": {n: read_json(fitted / "refined" / f"{n}.json") for n in names if recipe.refined_apart},
            "end_to_end": read_json(fitted / END_TO_END / "metrics.json"), "settings_tried": tried,
        },
    }  # fmt: skip
    model.save_pretrained(out, card, record=record)
    return model
