"""Verbs for who makes models: train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, RecipeName, Seed, check_folder, check_json, emit, say, setup
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions

if TYPE_CHECKING:
    from lorasynth.pipeline.workspace import Workspace
    from lorasynth.subjects.source import PhotoSource
    from lorasynth.training import Processes

ZooFolder = Annotated[Path, typer.Option("--zoo", help="The zoo's folder.")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=10_000_000, help="Of the training end to end, instead of the recipe's.")
]


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
    from lorasynth.pipeline.fitting import fit_vae_stage
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
    from lorasynth.pipeline.fitting import fit_prior_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.teaching import OF_PILOT_ALONE, shortcoming_of_latents
    from lorasynth.training import launched
    from lorasynth.zoo.config import is_pilot_alone
    from lorasynth.zoo.store import Zoo

    opened = Zoo.open(zoo)
    with launched() as processes:
        metrics = fit_prior_stage(get_recipe(recipe).seeded(seed), opened, out, processes)
        if processes.is_main:
            if said := OF_PILOT_ALONE if is_pilot_alone(opened.recipe) else shortcoming_of_latents(metrics):
                say(said)
            emit(metrics, json)


@expanded
def train_refine(
    recipe: RecipeName,
    photos: PhotoOptions,
    out: Annotated[Path, typer.Option("--out", help="The folder that `train vae` and `train prior` wrote to.")],
    zoo: Annotated[Path | None, typer.Option("--zoo", help="The zoo's folder; a drawn world needs none.")] = None,
    prior: Annotated[
        list[str] | None, typer.Option("--prior", help="Which; several may be given; default all.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Train the diffusion priors through the base model, one by one, on people of whom there are photos.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train refine portraits --out runs/fit --prior adalora
    """
    check_json(json, *([] if zoo is None else [zoo]), out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.errors import UsageError
    from lorasynth.pipeline.through_base import refine_stage
    from lorasynth.recipes import get_recipe
    from lorasynth.training import launched

    known = [p.conditioning for p in get_recipe(recipe).priors]
    if unknown := [name for name in prior or [] if name not in known]:
        raise UsageError(f"expected priors among {known}, got {unknown}")
    source = _source(recipe, zoo, photos)
    with launched() as processes:
        metrics = refine_stage(_workspace(recipe, seed, zoo, out, source, processes), prior)
        if processes.is_main:
            emit(metrics, json)


@expanded
def train_end_to_end(
    recipe: RecipeName,
    photos: PhotoOptions,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder that the stages before wrote to.")],
    steps: Steps = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Train all diffusion priors and the VAE together through the base model. Fit the baselines to that VAE.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train end-to-end portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.pipeline.through_base import end_to_end_stage
    from lorasynth.training import launched

    source = _source(recipe, zoo, photos)
    with launched() as processes:
        metrics = end_to_end_stage(_workspace(recipe, seed, zoo, out, source, processes, steps))
        if processes.is_main:
            emit(metrics, json)


@expanded
def train_settings(
    recipe: RecipeName,
    photos: PhotoOptions,
    zoo: ZooFolder,
    out: Annotated[Path, typer.Option("--out", help="The folder that the stages before wrote to.")],
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Choose each prior's settings, by pictures where there are photos, else by weights. Write the synthesizer.

    By pictures, the most similar settings are chosen of those that show what was asked for about as often as scale 1.

    Example: lorasynth train settings portraits --zoo runs/zoo --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.pipeline.assembling import assemble
    from lorasynth.pipeline.stages import require_no_synthesizer
    from lorasynth.pipeline.workspace import SYNTHESIZER
    from lorasynth.training import require_alone

    require_alone("train settings")
    source = _source(recipe, zoo, photos)
    work = _workspace(recipe, 0, zoo, out, source)
    require_no_synthesizer(work)
    made_from = assemble(work).record["made_from"]
    said = {name: made_from[name] for name in ("settings_tried", "obeyed") if name in made_from}
    emit({**said, "synthesizer": str(out / SYNTHESIZER)}, json)


@expanded
def train_all(
    recipe: RecipeName,
    photos: PhotoOptions,
    zoo: ZooFolder,
    out: Annotated[
        Path, typer.Option("--out", help="Working folder; the synthesizer goes to its folder 'synthesizer'.")
    ],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that refine priors; one a prior.")] = 1,
    steps: Steps = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """All stages of a recipe, and a synthesizer of what they make.

    In a drawn world, and with --data: fit VAE and priors, train both through the base, choose settings by pictures of
    validation people. Without photos: fit VAE and priors, choose settings by the weights of validation people's LoRAs.

    Example: lorasynth train all sd15 --zoo runs/zoo --base BASE --data people/ --encoder models/buffalo_l --out runs/fit
    """
    check_json(json, zoo, out, force=force)
    check_folder(out)
    setup(device)
    from lorasynth.errors import UsageError
    from lorasynth.pipeline import stages
    from lorasynth.recipes import get_recipe
    from lorasynth.training import require_alone

    require_alone("train all")
    source = _source(recipe, zoo, photos)
    if steps is not None and source is None and get_recipe(recipe).world is None:
        raise UsageError(
            "expected --steps with --data, got no photographs to train end to end on; give both or neither"
        )
    emit(stages.train_all(_workspace(recipe, seed, zoo, out, source, steps=steps), workers=workers), json)


def _source(recipe: str, zoo: Path | None, photos: PhotoOptions) -> "PhotoSource | None":
    """The photographs that the options name. On the base that the zoo was made for, unless another is named.

    Raises:
        UsageError: options that go with --data are given without it, or no zoo is named with it.
        ZooError: the zoo cannot be read.
    """
    from lorasynth.errors import UsageError
    from lorasynth.recipes import get_recipe
    from lorasynth.zoo.store import Zoo

    usual = get_recipe(recipe).base
    if photos.data is not None:
        if zoo is None:
            raise UsageError("expected --zoo with --data, got no zoo; give the zoo that the photographs were made into")
        usual = str(Zoo.open(zoo).recipe.get("base") or usual)
    return photos.source(usual)


def _workspace(
    recipe: str,
    seed: int,
    zoo: Path | None,
    out: Path,
    source: "PhotoSource | None",
    processes: "Processes | None" = None,
    steps: int | None = None,
) -> "Workspace":
    from lorasynth.pipeline.workspace import Workspace
    from lorasynth.recipes import get_recipe
    from lorasynth.training import SINGLE_PROCESS

    chosen = get_recipe(recipe).seeded(seed)
    chosen = chosen if steps is None else chosen.with_end_to_end_steps(steps)
    return Workspace(
        recipe=chosen, folder=out, zoo_folder=zoo, photos=source, processes=processes or SINGLE_PROCESS,
        report=say,
    )  # fmt: skip
