"""Verbs for who makes models: train, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, RecipeName, Seed, check_json, emit, say, setup

ZooFolder = Annotated[Path, typer.Option("--zoo", help="The zoo's folder.")]


def train_vae(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="Where the fitted parts go; the same again resumes.")],
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Fit canonical form and VAE on a zoo.

    Example: lorasynth train vae portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json)
    setup(device)
    from lorasynth.fitting import fit_vae_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.zoo.store import Zoo

    emit(fit_vae_stage(get_recipe(recipe).seeded(seed), Zoo.open(zoo), out), json)


def train_prior(
    recipe: RecipeName,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train vae` wrote to.")],
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Fit the priors and the baselines on the VAE's latents.

    Example: lorasynth train prior portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json)
    setup(device)
    from lorasynth.fitting import fit_prior_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.zoo.store import Zoo

    emit(fit_prior_stage(get_recipe(recipe).seeded(seed), Zoo.open(zoo), out), json)


def train_refine(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train vae` and `train prior` wrote to.")],
    prior: Annotated[
        list[str] | None, typer.Option("--prior", help="Which; several may be given; default all.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Train the diffusion priors through the base model, on people of whom there are photos and no LoRAs.

    Example: lorasynth train refine portraits --out runs/fit --prior adalora
    """
    check_json(json)
    setup(device)
    from lorasynth.errors import UsageError
    from lorasynth.fitting import refine_stage
    from lorasynth.recipes import get_world_recipe

    config = get_world_recipe(recipe).seeded(seed)
    known = [p.conditioning for p in config.priors]
    if unknown := [name for name in prior or [] if name not in known]:
        raise UsageError(f"expected priors among {known}, got {unknown}")
    emit(refine_stage(config, out, prior), json)


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
) -> None:
    """All stages of a recipe, and a synthesizer of what they make.

    In a drawn world: fit VAE and priors, train the priors through the base, choose settings by pictures of validation people.
    For a real base, which draws nothing here: fit VAE and priors, choose settings by the weights of validation people's LoRAs.

    Example: lorasynth train all portraits --zoo runs/zoo --out runs/fit --workers 2
    """
    check_json(json)
    setup(device)
    from lorasynth.cards import synthesizer_card
    from lorasynth.errors import OutputExistsError
    from lorasynth.fitting import assemble, fit_prior_stage, fit_vae_stage, refine_with_workers
    from lorasynth.recipes import BaseRecipe, get_recipe, get_world_recipe
    from lorasynth.zoo.store import Zoo

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
    record["refined"] = refine_with_workers(config, out, workers)
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
    grid: Annotated[Path | None, typer.Option(help="Write a picture sheet of all methods to this PNG.")] = None,
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

    Example: lorasynth evaluate --people 100 --json scores.json --grid scores.png
    """
    from lorasynth.files import require_new_output, write_png

    check_json(json)
    if grid is not None:
        require_new_output(grid, force=force, suffix=".png")
    setup(device)
    from lorasynth.demo import fine_tuning_recipe, versions
    from lorasynth.errors import UsageError
    from lorasynth.evaluate.grid import sheet
    from lorasynth.evaluate.methods import EvaluationConfig
    from lorasynth.evaluate.methods import evaluate as score
    from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
    from lorasynth.worlds.world import get_world

    folder = model or DEFAULT_MODEL
    synthesizer = Synthesizer.from_pretrained(folder)
    if zoo is not None:
        from lorasynth.evaluate.weights import weight_errors
        from lorasynth.zoo.store import Zoo

        methods = weight_errors(synthesizer, Zoo.open(zoo), "held_out", seed=seed)
        emit({"methods": methods, "zoo": str(zoo), "split": "held_out", "seed": seed, "versions": versions()}, json)
        return
    if synthesizer.encoder_record is not None:
        raise UsageError(
            f"{folder}: expected a drawn world's model, got one of {synthesizer.base}, which cannot be drawn here; give --zoo "
            "ZOO to score it by weights"
        )
    config = EvaluationConfig(people=people, seed=seed)
    recipe = fine_tuning_recipe(folder)
    record, pictures = score(get_world(synthesizer.base), synthesizer, recipe, config, cache=cache, report=say)
    if grid is not None:
        names = [n for n in ("real", "fine_tuned", "adalora", "adanorm", "ridge", "nearest", "base") if n in pictures]
        write_png(grid, sheet([pictures[n][:8, 1] for n in names], names))
    emit({**record, "seed": seed, "versions": versions()}, json)
