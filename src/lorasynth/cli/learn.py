"""Verbs for who makes models: train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasynth.cli.common import Device, Force, Json, RecipeName, Seed, check_folder, check_json, emit, say, setup
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions

if TYPE_CHECKING:
    from lorasynth.pipeline.workspace import Workspace

ZooFolder = Annotated[Path, typer.Option("--zoo", help="The zoo's folder.")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=10_000_000, help="Of the training end to end, instead of the recipe's.")
]
Workers = Annotated[
    int, typer.Option(min=1, max=256, help="Processes that refine priors and choose their settings; one a prior.")
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a stage works, and on what. Each field is an option of its name."""

    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The training's folder, the same for all stages; the synthesizer goes to its folder 'synthesizer'.",
        ),
    ]
    json: Json = None
    device: Device = "cpu"
    force: Force = False

    def begin(self, zoo: Path | None) -> None:
        """Fail before the work if its results could not be written, and take the device."""
        check_json(self.json, *([] if zoo is None else [zoo]), self.out, force=self.force)
        check_folder(self.out)
        setup(self.device)


@expanded
def train_vae(recipe: RecipeName, zoo: ZooFolder, run: Run, seed: Seed = 0) -> None:
    """Fit canonical form and VAE on a zoo.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train vae portraits --zoo runs/zoo --out runs/fit
    """
    run.begin(zoo)
    from lorasynth.pipeline.fitting import fit_vae_stage

    _measure(fit_vae_stage, _workspace(recipe, zoo, run, seed=seed), run)


@expanded
def train_prior(recipe: RecipeName, zoo: ZooFolder, run: Run, seed: Seed = 0) -> None:
    """Fit the priors and the baselines on the VAE's latents.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train prior portraits --zoo runs/zoo --out runs/fit
    """
    run.begin(zoo)
    from lorasynth.pipeline.fitting import fit_prior_stage
    from lorasynth.teaching import OF_PILOT_ALONE, shortcoming_of_latents
    from lorasynth.zoo.config import is_pilot_alone

    work = _workspace(recipe, zoo, run, seed=seed)
    if metrics := _measure(fit_prior_stage, work, run):
        said = OF_PILOT_ALONE if is_pilot_alone(work.zoo.recipe) else shortcoming_of_latents(metrics)
        if said:
            say(said)


@expanded
def train_refine(
    recipe: RecipeName,
    photos: PhotoOptions,
    run: Run,
    zoo: Annotated[Path | None, typer.Option("--zoo", help="The zoo's folder; a drawn world needs none.")] = None,
    prior: Annotated[
        list[str] | None, typer.Option("--prior", help="Which; several may be given; default all.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train the diffusion priors through the base model, one by one, on people of whom there are photos.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train refine portraits --out runs/fit --prior adalora
    """
    run.begin(zoo)
    from functools import partial

    from lorasynth.errors import UsageError
    from lorasynth.pipeline.through_base import refine_stage

    work = _workspace(recipe, zoo, run, photos, seed=seed)
    known = work.recipe.prior_names
    if unknown := [name for name in prior or [] if name not in known]:
        raise UsageError(f"expected priors among {known}, got {unknown}")
    _measure(partial(refine_stage, names=prior), work, run)


@expanded
def train_end_to_end(
    recipe: RecipeName, photos: PhotoOptions, zoo: ZooFolder, run: Run, steps: Steps = None, seed: Seed = 0
) -> None:
    """Train all diffusion priors and the VAE together through the base model. Fit the baselines to that VAE.

    Several processes share it when started by torchrun or accelerate launch: docs/results/scale.md.

    Example: lorasynth train end-to-end portraits --zoo runs/zoo --out runs/fit
    """
    run.begin(zoo)
    from lorasynth.pipeline.through_base import end_to_end_stage

    _measure(end_to_end_stage, _workspace(recipe, zoo, run, photos, seed=seed, steps=steps), run)


@expanded
def train_settings(recipe: RecipeName, photos: PhotoOptions, zoo: ZooFolder, run: Run, workers: Workers = 1) -> None:
    """Choose each prior's settings, by pictures where there are photos, else by weights. Write the synthesizer.

    By pictures, the most similar settings are chosen of those that show what was asked for about as often as scale 0.

    Example: lorasynth train settings portraits --zoo runs/zoo --out runs/fit
    """
    run.begin(zoo)
    from lorasynth.pipeline.assembling import assemble
    from lorasynth.pipeline.stages import require_no_synthesizer
    from lorasynth.pipeline.workspace import SYNTHESIZER
    from lorasynth.training import require_alone

    require_alone("train settings")
    work = _workspace(recipe, zoo, run, photos)
    require_no_synthesizer(work)
    made_from = assemble(work, workers).record["made_from"]
    said = {name: made_from[name] for name in ("settings_tried", "obeyed") if name in made_from}
    emit({**said, "synthesizer": str(work.folder / SYNTHESIZER)}, run.json)


@expanded
def train_all(
    recipe: RecipeName,
    photos: PhotoOptions,
    zoo: ZooFolder,
    run: Run,
    workers: Workers = 1,
    steps: Steps = None,
    seed: Seed = 0,
) -> None:
    """All stages of a recipe, and a synthesizer of what they make.

    In a drawn world, and with --data: fit VAE and priors, train both through the base, choose settings by pictures of
    validation people. Without photos: fit VAE and priors, choose settings by the weights of validation people's LoRAs.

    Example: lorasynth train all sd15 --zoo runs/zoo --base BASE --data people/ --encoder models/buffalo_l --out runs/fit
    """
    run.begin(zoo)
    from lorasynth.errors import UsageError
    from lorasynth.pipeline import stages
    from lorasynth.training import require_alone

    require_alone("train all")
    work = _workspace(recipe, zoo, run, photos, seed=seed, steps=steps)
    if steps is not None and work.photos is None and work.recipe.world is None:
        raise UsageError(
            "expected --steps with --data, got no photographs to train end to end on; give both or neither"
        )
    record = stages.train_all(work, workers=workers)
    emit(record, run.json)


def _measure(stage: "Callable[[Workspace], dict[str, Any]]", work: "Workspace", run: Run) -> dict[str, Any] | None:
    """What a stage measured, in as many processes as were launched. The main one emits it; None in the others."""
    from dataclasses import replace

    from lorasynth.training import launched

    with launched() as processes:
        metrics = stage(replace(work, processes=processes))
        if not processes.is_main:
            return None
        emit(metrics, run.json)
        return metrics


def _workspace(
    recipe: str,
    zoo: Path | None,
    run: Run,
    photos: PhotoOptions | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
) -> "Workspace":
    """The training that the options describe. Photographs teach the base that the zoo was made for, unless another is named.

    Raises:
        UsageError: options that go with --data are given without it, or no zoo is named with it.
    """
    from lorasynth.errors import UsageError
    from lorasynth.pipeline.workspace import Workspace
    from lorasynth.recipes import get_recipe

    source = None if photos is None else photos.source()
    if source is not None and zoo is None:
        raise UsageError("expected --zoo with --data, got no zoo; give the zoo that the photographs were made into")
    chosen = get_recipe(recipe).seeded(seed)
    if steps is not None:
        chosen = chosen.with_end_to_end_steps(steps)
    return Workspace(recipe=chosen, folder=run.out, zoo_folder=zoo, photos=source, report=say)
