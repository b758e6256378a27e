"""Verbs for who makes models: train, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, RecipeName, Seed, check_folder, check_json, emit, say, setup

ZooFolder = Annotated[Path, typer.Option("--zoo", help="The zoo's folder.")]


def train_vae(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="Where the fitted parts go; the same again resumes.")],
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Fit canonical form and VAE on a zoo.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train vae portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.fitting import fit_vae_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.training import launched
    from lorasynth.zoo.store import Zoo

    with launched() as processes:
        metrics = fit_vae_stage(get_recipe(recipe).seeded(seed), Zoo.open(zoo), out, processes)
        if processes.is_main:
            emit(metrics, json)


def train_prior(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train vae` wrote to.")],
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Fit the priors and the baselines on the VAE's latents.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train prior portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.fitting import fit_prior_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.teaching import shortcoming_of_latents
    from lorasynth.training import launched
    from lorasynth.zoo.store import Zoo

    with launched() as processes:
        metrics = fit_prior_stage(get_recipe(recipe).seeded(seed), Zoo.open(zoo), out, processes)
        if processes.is_main:
            if said := shortcoming_of_latents(metrics):
                say(said)
            emit(metrics, json)


def train_refine(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train vae` and `train prior` wrote to.")],
    prior: Annotated[
        list[str] | None, typer.Option("--prior", help="Which; several may be given; default all.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Train the diffusion priors through the base model, on people of whom there are photos and no LoRAs.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train refine portraits --out runs/fit --prior adalora
    """
    check_json(json, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.errors import UsageError
    from lorasynth.recipes import get_world_recipe
    from lorasynth.training import launched
    from lorasynth.world_fitting import refine_stage

    config = get_world_recipe(recipe).seeded(seed)
    known = [p.conditioning for p in config.priors]
    if unknown := [name for name in prior or [] if name not in known]:
        raise UsageError(f"expected priors among {known}, got {unknown}")
    with launched() as processes:
        metrics = refine_stage(config, out, prior, processes)
        if processes.is_main:
            emit(metrics, json)


def train_end_to_end(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train refine` wrote to.")],
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Train all diffusion priors and the VAE together through the base model; fit the baselines to that VAE.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train end-to-end portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.recipes import get_world_recipe
    from lorasynth.training import launched
    from lorasynth.world_fitting import end_to_end_stage
    from lorasynth.zoo.store import Zoo

    with launched() as processes:
        metrics = end_to_end_stage(get_world_recipe(recipe).seeded(seed), Zoo.open(zoo), out, processes)
        if processes.is_main:
            emit(metrics, json)


def train_all(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[
        Path, typer.Option("--out", help="Working folder; the synthesizer goes to its folder 'synthesizer'.")
    ],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that refine priors; one a prior.")] = 1,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """All stages of a recipe, and a synthesizer of what they make.

    In a drawn world: fit VAE and priors, train priors and VAE through the base, choose settings by pictures of validation people.
    For a real base, which draws nothing here: fit VAE and priors, choose settings by the weights of validation people's LoRAs.

    Example: lorasynth train all portraits --zoo runs/zoo --out runs/fit --workers 2
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.cards import synthesizer_card
    from lorasynth.errors import OutputExistsError
    from lorasynth.fitting import fit_prior_stage, fit_vae_stage
    from lorasynth.recipes import BaseRecipe, get_recipe, get_world_recipe
    from lorasynth.training import require_alone
    from lorasynth.world_fitting import assemble, end_to_end_stage, refine_with_workers
    from lorasynth.zoo.store import Zoo

    require_alone("train all")
    target = out / "synthesizer"
    if (target / "config.json").exists():
        raise OutputExistsError(f"{target}: holds a synthesizer already; choose another --out or remove it")
    found, opened = get_recipe(recipe).seeded(seed), Zoo.open(zoo)
    if isinstance(found, BaseRecipe):
        from lorasynth.assembling import fit_all

        emit(fit_all(found, opened, out, report=say), json)
        return
    config = get_world_recipe(recipe).seeded(seed)
    record = {"vae": fit_vae_stage(config, opened, out), "priors": fit_prior_stage(config, opened, out)}
    if config.refined_apart:
        record["refined"] = refine_with_workers(config, out, workers)
    record["end_to_end"] = end_to_end_stage(config, opened, out)
    assemble(config, opened, out, target, synthesizer_card(config, opened, record), report=say)
    emit({**record, "synthesizer": str(target)}, json)


def evaluate(
    model: Annotated[Path | None, typer.Argument(help="A synthesizer's folder; the shipped one by default.")] = None,
    people: Annotated[int, typer.Option(min=2, max=10_000, help="How many held-out people.")] = 100,
    zoo: Annotated[
        Path | None,
        typer.Option(
            help="Score by the weights of this zoo's held-out LoRAs, and draw nothing: for a model of a real base."
        ),
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(
            help="The zoo that the model learned from: asks whether what it makes are copies of that zoo's LoRAs."
        ),
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Write a picture sheet of all methods to this PNG.")] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write all results to this HTML page: tables, plots, pictures, the model's card, in one file."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep the fine-tuned LoRAs in this folder, so that the next evaluation finds them."),
    ] = None,
    json: Json = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Identity similarity on held-out people, of every method the model holds, with bootstrap intervals.

    With --zoo, the error of ΔW instead: for a model of a real base, of which no picture can be drawn here.
    With --trained-on, whether LoRAs are copies (with --zoo and --html, that zoo's unless another is named).

    Example: lorasynth evaluate --people 100 --html report.html --trained-on runs/zoo --json scores.json
    """
    from lorasynth.errors import UsageError
    from lorasynth.storage.files import write_bytes, write_png
    from lorasynth.storage.outputs import require_new_output

    read = (model, zoo, trained_on)
    check_json(json, *(path for path in (grid, html, *read, cache) if path is not None), force=force)
    if cache is not None:
        check_folder(cache)
    if grid is not None and zoo is not None:
        raise UsageError("expected --grid or --zoo, got both: --zoo scores by weights and draws nothing; leave one out")
    if grid is not None:
        require_new_output(grid, force=force, suffix=".png")
    if html is not None:
        require_new_output(html, force=force, suffix=".html")
    setup(device)
    from lorasynth.demo import fine_tuning_recipe, versions
    from lorasynth.evaluate.grid import sheet
    from lorasynth.evaluate.methods import EvaluationConfig
    from lorasynth.evaluate.methods import evaluate as score
    from lorasynth.evaluate.page import page
    from lorasynth.evaluate.weights import evaluate_weights
    from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
    from lorasynth.worlds.world import get_world
    from lorasynth.zoo.store import Zoo

    folder = DEFAULT_MODEL if model is None else model
    synthesizer = Synthesizer.from_pretrained(folder)
    learned_from = Zoo.open(trained_on) if trained_on is not None else None
    image = None
    if zoo is not None:
        true = Zoo.open(zoo)
        if learned_from is None and html is not None and any(item.split == "train" for item in true.items):
            learned_from = true
        record = evaluate_weights(synthesizer, true, trained_on=learned_from, seed=seed, report=say)
    elif synthesizer.encoder_record is not None:
        raise UsageError(
            f"{folder}: expected a drawn world's model, got one of {synthesizer.base}, which cannot be drawn here; give --zoo "
            "ZOO to score it by weights"
        )
    else:
        config, recipe = EvaluationConfig(people=people, seed=seed), fine_tuning_recipe(folder)
        world = get_world(synthesizer.base)
        record, pictures = score(world, synthesizer, recipe, config, cache=cache, trained_on=learned_from, report=say)
        names = [n for n in ("real", "fine_tuned", "adalora", "adanorm", "ridge", "nearest", "base") if n in pictures]
        image = sheet([pictures[n][:8, 1] for n in names], names)
    record |= {"seed": seed, "versions": versions()}
    if grid is not None and image is not None:
        write_png(grid, image)
    if html is not None:
        title = f"lorasynth synthesizer {synthesizer.base}" if model is None else str(model)
        write_bytes(html, page(synthesizer, title, record, image).encode())
    emit(record, json)
