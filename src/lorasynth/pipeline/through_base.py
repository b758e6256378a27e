"""The stages that learn from pictures: priors and VAE trained through the base model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lorasynth.devices import begin_worker
from lorasynth.errors import CheckpointError
from lorasynth.pipeline.assembling import END_TO_END, put_together
from lorasynth.pipeline.fitting import delta_W_errors, fit_baselines, latents_of
from lorasynth.pipeline.workspace import Workspace, silent
from lorasynth.refining import end_to_end, latent_net, refine, train_critic
from lorasynth.storage.files import write_json, write_tensors
from lorasynth.storage.outputs import make_folder
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.training import SINGLE_PROCESS, config_record
from lorasynth.workers.helpers import process_pool
from lorasynth.workers.main_guard import require_main_guard
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.world import load_recogniser


def critic_stage(work: Workspace) -> LatentNet:
    """The critic that priors are held against: trained, unless it is there, and read.

    Of several processes the main one trains and writes it, and the others wait.

    Raises:
        UsageError: there are no pictures.
        CheckpointError: the critic that is there is of other photos or settings. One of before, which does not say, is taken.
    """
    path, subjects, config = work.folder / "critic.safetensors", work.require_subjects(), work.recipe.refine
    settings = {"critic": config_record(config.critic), "people": config.critic_people, "noise": config.critic_noise}
    of = {"subjects": subjects.content, "settings": json.dumps(settings, sort_keys=True)}
    if work.processes.is_main and not path.exists():
        make_folder(work.folder)
        write_tensors(path, train_critic(subjects, config).state_dict(), of)
    work.processes.wait()
    with TensorFile(path) as file:
        said, (embedding_dim, _) = file.metadata, file.shapes["head.weight"]
    for name, value in of.items():
        if said.get(name, value) != value:
            raise CheckpointError(
                f"{path}: expected {name} {value}, got {said[name]}; remove the file to train another critic"
            )
    return load_recogniser(latent_net(subjects.base, embedding_dim), path)


def refine_stage(work: Workspace, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Train diffusion priors, one by one, through the base model, and write them to the folder's "refined".

    Of several processes, which share every batch, the main one writes.

    Args:
        work: which base, priors and settings. Its folder has the stages before.
        names: which priors, by default all of the recipe's. They have nothing to do with each other: several processes may each
            do one, after `critic_stage`.

    Returns:
        `refine`'s figures of each, on "photo" and then on "drawn" states.

    Raises:
        UsageError: there are no pictures.
    """
    subjects, recipe = work.require_subjects(), work.fitted
    model, critic = put_together(work, "priors"), critic_stage(work)
    metrics: dict[str, dict[str, Any]] = {}
    for name in names or recipe.prior_names:
        metrics[name] = {
            config.states: refine(
                subjects, model, name, critic, config, run_dir=work.folder / f"run-{config.states}-{name}",
                processes=work.processes,
            )
            for config in (recipe.refine, recipe.redraw)
        }  # fmt: skip
        if work.processes.is_main:
            make_folder(work.folder / "refined")
            model.priors[name].save(work.folder / "refined" / f"{name}.safetensors")
            write_json(work.folder / "refined" / f"{name}.json", metrics[name])
    return metrics


def refine_with_workers(work: Workspace, workers: int) -> dict[str, dict[str, Any]]:
    """`refine_stage` of all priors, each in a process of one thread, ``workers`` at once.

    Raises:
        UsageError: there are no pictures, or the running script cannot be imported by workers.
    """
    if workers == 1:
        return refine_stage(work)
    names = work.recipe.prior_names
    require_main_guard()
    critic_stage(work)
    device, sent = str(torch.get_default_device()), replace(work, report=silent, processes=SINGLE_PROCESS)
    with process_pool(min(workers, len(names)), begin_worker, device) as pool:
        parts = list(pool.map(refine_stage, [sent] * len(names), [[name] for name in names]))
    return {name: figures for part in parts for name, figures in part.items()}


def end_to_end_stage(work: Workspace) -> dict[str, Any]:
    """Train all diffusion priors and the VAE together through the base, and write them to the folder's "end-to-end".

    The baselines, which the zoo alone teaches, are fitted again to the VAE as it is then. Of several processes, which share every
    batch, the main one does that, and writes.

    Returns:
        `end_to_end`'s figures, and those on ΔW that `fit_vae_stage` gives, of this VAE.

    Raises:
        UsageError: there are no pictures.
        ZooError: the zoo is not the recipe's.
    """
    subjects, recipe, out = work.require_subjects(), work.fitted, work.folder
    data, model = work.rows, put_together(work, "refined" if recipe.refined_apart else "priors")
    names = recipe.prior_names
    x = model.canonicalizer.view(data.vectors)
    metrics: dict[str, Any] = end_to_end(
        subjects, model, names, critic_stage(work), x.take(data.train), recipe.end_to_end,
        run_dir=out / "run-end-to-end", processes=work.processes,
    )  # fmt: skip
    if not work.processes.is_main:
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
