"""All stages of a training, one after the other."""

from typing import Any

from lorasynth.errors import OutputExistsError, UsageError
from lorasynth.pipeline.assembling import assemble
from lorasynth.pipeline.fitting import fit_prior_stage, fit_vae_stage
from lorasynth.pipeline.through_base import end_to_end_stage, refine_with_workers
from lorasynth.pipeline.workspace import SYNTHESIZER, Workspace
from lorasynth.teaching import OF_PILOT_ALONE
from lorasynth.zoo.config import is_pilot_alone


def require_no_synthesizer(work: Workspace) -> None:
    """Refuse a folder whose synthesizer is made.

    Raises:
        OutputExistsError: a synthesizer is there.
    """
    target = work.folder / SYNTHESIZER
    if (target / "config.json").exists():
        raise OutputExistsError(f"{target}: holds a synthesizer already; choose another --out or remove it")


def train_all(work: Workspace, *, workers: int = 1) -> dict[str, Any]:
    """Every stage of the recipe, and a synthesizer of what they make. Where there are no pictures, the zoo alone teaches.

    Args:
        work: the training.
        workers: processes that refine priors and choose their settings, one a prior.

    Returns:
        What the stages measured, by their names, and the folder of the synthesizer.

    Raises:
        ZooError: the zoo is not the recipe's, or not large enough for it.
        UsageError: the zoo is a pilot's alone, and there are no pictures.
        OutputExistsError: a synthesizer is there.
    """
    require_no_synthesizer(work)
    zoo, subjects = work.zoo, work.subjects  # before anything long: what cannot be used is refused
    if is_pilot_alone(zoo.recipe):
        if subjects is None:
            raise UsageError(
                f"expected photographs to teach, got none: {OF_PILOT_ALONE}; give --data, --encoder and --base"
            )
        work.report(OF_PILOT_ALONE)
    record: dict[str, Any] = {"vae": fit_vae_stage(work), "priors": fit_prior_stage(work)}
    if subjects is not None:
        if work.fitted.refined_apart:
            record["refined"] = refine_with_workers(work, workers)
        record["end_to_end"] = end_to_end_stage(work)
    elif "data" in zoo.recipe:
        work.report(
            "trained by weights alone: give --data, --encoder and --base to train through the base, which lifts similarity most "
            "(docs/your-pictures.md)"
        )
    made_from = assemble(work, workers).record["made_from"]
    if "validation" in made_from:
        record["validation"] = made_from["validation"]
    return record | {"synthesizer": str(work.folder / SYNTHESIZER)}
