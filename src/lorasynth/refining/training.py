"""The two trainings through the base model: of a prior by itself, and of all priors with the VAE."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.base import Photos
from lorasynth.devices import fast_matmul
from lorasynth.errors import UsageError
from lorasynth.evaluate.identity import likeness
from lorasynth.gallery import Role
from lorasynth.prior import DiffusionPrior
from lorasynth.refining.config import EndToEndConfig, RefineConfig
from lorasynth.refining.loss import Judge
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.rows import Rows
from lorasynth.storage.settings import Settings
from lorasynth.subjects import Subjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import SINGLE_PROCESS, Processes, Share, config_record, step_generator, train
from lorasynth.vae import zoo_loss


def refine(
    subjects: Subjects,
    model: Synthesizer,
    name: str,
    critic: nn.Module,
    config: RefineConfig,
    *,
    run_dir: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """Train one of a model's diffusion priors, centre and denoiser, through the base, in place.

    Every step takes new people. A photo of each is embedded, and the prior samples a latent at temperature 0. The LoRA it becomes
    is held against other photos of the person:

        loss = v-loss + identity_weight * (1 - cos(critic(predicted latent), critic's mean embedding of the person)).

    Validation people, seen by nothing else, choose the best weights.

    Args:
        subjects: who teaches, on which base.
        model: holds the prior.
        name: which.
        critic: latents -> unit embeddings. It is neither of the recognisers that score.
        config: settings.
        run_dir: for checkpoints and metrics. The same folder again resumes.
        processes: that share every batch.

    Returns:
        "loss_before" and "loss_after" (on the validation people, with the LoRAs made for them), "best_step", "seconds".
        The prior's settings are those that it was trained with.

    Raises:
        UsageError: the prior is not a diffusion prior.
    """
    held = subjects.people(Role.STOPPING, config.validation_people)
    held_embedding = subjects.given(held)[:, 0]
    held_photos = subjects.shown(held, config.critic_photos)
    pool = subjects.teachers(config.first_person, config.people)
    judge = Judge(subjects.base, model.canonicalizer.layout, critic, config)

    def validate() -> float:
        vectors = _vectors(model, [name], held_embedding, config)
        losses = [judge.loss(vectors, held_photos, Share(step_generator(1, k))) for k in range(4)]
        return sum(loss.item() for loss in losses) / len(losses)

    def loss_of(generator: torch.Generator) -> Tensor:
        share = Share(generator, processes)
        embedding, photos = _people(subjects, pool, config, share)
        return judge.loss(_vectors(model, [name], embedding, config, processes), photos, share)

    priors = _diffusion_priors(model, [name])
    frozen = [model.vae, critic, subjects.base.denoiser]
    before, metrics = _train(
        priors, frozen, loss_of, validate, config, config_record(config) | _taught_by(subjects, pool), f"refine {name}",
        run_dir, processes,
    )  # fmt: skip
    model.settings[name] = _settings(config)
    return {"loss_before": before, "loss_after": metrics["best_validation"]} | _how_long(metrics)


def end_to_end(
    subjects: Subjects,
    model: Synthesizer,
    names: Sequence[str],
    critic: nn.Module,
    zoo: Float[Tensor, "N F"] | Rows,
    config: EndToEndConfig,
    *,
    run_dir: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """Train diffusion priors and the VAE together through the base, in place.

    A zoo teaches a VAE the directions in which LoRAs vary. They need not be those in which a picture becomes a person's. Every
    step gives each prior an equal share of new people, on `refine`'s loss. The VAE keeps reconstructing the LoRAs of the zoo:

        loss = refine's + zoo_weight * VAE's own loss on LoRAs of the zoo (`zoo_loss`).

    Pictures of validation people, seen by nothing else, choose the best weights. Their score is the mean similarity by the
    conditioning encoder, which no gradient has come through.

    Args:
        subjects: who teaches, on which base.
        model: holds the priors and the VAE. Other priors of its VAE have to be fitted again afterwards.
        names: which priors.
        critic: latents -> unit embeddings. It is neither of the recognisers that score.
        zoo: canonical vectors of the zoo's training people, in memory or on disk.
        config: settings.
        run_dir: for checkpoints and metrics. The same folder again resumes.
        processes: that share every batch.

    Returns:
        "likeness_before" and "likeness_after" (of the validation people, mean over the priors), "best_step", "seconds".
        The priors' settings are those that they were trained with.

    Raises:
        UsageError: one of the priors is not a diffusion prior.
    """
    through = config.through
    held = subjects.people(Role.STOPPING, through.validation_people)
    held_embedding = subjects.given(held)[:, 0]
    centroids, pool = subjects.centroids(held), subjects.teachers(through.first_person, through.people)
    judge = Judge(subjects.base, model.canonicalizer.layout, critic, through)

    def validate() -> float:
        sampled = [_vectors(model, [name], held_embedding, through) for name in names]
        return 1 - sum(likeness(subjects, model.canonicalizer.layout, v, centroids) for v in sampled) / len(sampled)

    def loss_of(generator: torch.Generator) -> Tensor:
        share = Share(generator, processes)
        embedding, photos = _people(subjects, pool, through, share)
        loss = judge.loss(_vectors(model, names, embedding, through, processes), photos, share)
        (rows,) = share.rows(torch.randint(len(zoo), (config.zoo_batch,), generator=generator))
        return loss + config.zoo_weight * zoo_loss(model.vae, zoo[rows], config.kl_weight, share)

    learned = _diffusion_priors(model, names)
    learned["vae"] = model.vae
    frozen = [critic, subjects.base.denoiser]
    of_zoo = {"zoo": zoo.digest if isinstance(zoo, Rows) else fingerprint(zoo)}
    record = config_record(config) | of_zoo | _taught_by(subjects, pool)
    before, metrics = _train(learned, frozen, loss_of, validate, through, record, "end to end", run_dir, processes)
    model.vae.orthonormalize()
    for name in names:
        model.settings[name] = _settings(through)
    return {"likeness_before": 1 - before, "likeness_after": 1 - metrics["best_validation"]} | _how_long(metrics)


def _diffusion_priors(model: Synthesizer, names: Sequence[str]) -> nn.ModuleDict:
    for name in names:
        if not isinstance(model.priors[name], DiffusionPrior):
            raise UsageError(
                f"expected a diffusion prior to refine, got {type(model.priors[name]).__name__} for {name!r}"
            )
    return nn.ModuleDict({name: cast(DiffusionPrior, model.priors[name]) for name in names})


def _train(
    learned: nn.ModuleDict,
    frozen: Sequence[nn.Module],
    loss_of: Callable[[torch.Generator], Tensor],
    validate: Callable[[], float],
    config: RefineConfig,
    record: dict[str, Any],
    label: str,
    run_dir: Path | None,
    processes: Processes,
) -> tuple[float, dict[str, float]]:
    """Validation before, and the loop's figures after."""
    for part in frozen:
        part.requires_grad_(False)
    learned.requires_grad_(True)  # the priors' centres too
    for module in learned.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # new people at every step: nothing can be learned by heart
    with torch.no_grad():
        before = validate()
    data = fingerprint(*(t for part in (learned, *frozen) for t in part.state_dict().values()))
    record = record | {"data": data}
    with fast_matmul():
        metrics = train(
            learned, loss_of, config.loop, validate=validate, run_dir=run_dir, config_record=record, label=label,
            processes=processes,
        )  # fmt: skip
    learned.requires_grad_(False)
    return before, metrics


def _taught_by(subjects: Subjects, pool: Sequence[int]) -> Settings:
    """Whose photos teach, for the record of a run. Runs of before, which do not say, go on."""
    said = {"subjects": subjects.content, "teachers": len(pool)}
    return Settings(said, said)


def _people(
    subjects: Subjects, pool: Sequence[int], config: RefineConfig, share: Share
) -> tuple[Float[Tensor, "N D"], Photos]:
    """People drawn anew from the pool, of a batch this process's: the embedding of a photo of each, and other photos."""
    whole = torch.randint(len(pool), (config.people_a_step,), generator=share.generator)
    given, shown = torch.randint(config.photos, (2,), generator=share.generator).tolist()
    people = [pool[i] for i in share.rows(whole)[0].tolist()]
    return subjects.given(people, first=given)[:, 0], subjects.shown(people, config.critic_photos, first=shown)


def _vectors(
    model: Synthesizer,
    names: Sequence[str],
    embedding: Float[Tensor, "N D"],
    config: RefineConfig,
    processes: Processes = SINGLE_PROCESS,
) -> Float[Tensor, "N P"]:
    """LoRAs, with gradients. Each prior makes those of an equal part of the whole batch's people."""
    parts = torch.arange(processes.count * len(embedding)).tensor_split(len(names))
    (whose,) = processes.share(torch.cat([torch.full((len(part),), k) for k, part in enumerate(parts)]))
    sampler: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": config.num_inference_steps}
    # A prior without people here samples none of them: all processes have gradients, if of zero, for the same weights.
    shares = zip(names, (embedding[whose == k] for k in range(len(names))), strict=True)
    z = torch.cat([cast(DiffusionPrior, model.priors[name]).sample(share, **sampler) for name, share in shares])
    return model.canonicalizer.invert(config.scale * model.vae.decode(z))


def _settings(config: RefineConfig) -> dict[str, Any]:
    return {
        "temperature": 0.0, "num_inference_steps": config.num_inference_steps, "guidance_scale": 1.0, "scale": config.scale
    }  # fmt: skip


def _how_long(metrics: dict[str, float]) -> dict[str, float]:
    return {"best_step": metrics["best_step"], "seconds": metrics["seconds"]}
