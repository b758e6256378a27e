"""A prior trained through the base model: the LoRA that it samples must denoise its person's photos.

A zoo teaches where LoRAs lie, at the price of one fine-tuning a person; and the squared error between weights, by which it is
learned from, weighs a direction of LoRA space by how far LoRAs spread along it, not by what it does to a picture. From then on
a person to learn from needs photos and no LoRA: the base model's own loss says what is wrong with the LoRA made for them. Its
gradient runs through the frozen base, the LoRA, the canonical form, the VAE's decoder and every step of the prior's sampler, as
reward fine-tuning does it for pictures (DRaFT, Clark et al., ICLR 2024). Goes beyond the paper, whose prior ends with the v-loss.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import UsageError
from lorasynth.lora.bank import attached
from lorasynth.prior import DiffusionPrior
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig, config_record, fingerprint, step_generator, train
from lorasynth.worlds.base import stratified_timesteps, v_loss
from lorasynth.worlds.portraits.factors import Split, persons_of
from lorasynth.worlds.world import Photos, World


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Training of a prior through the base model."""

    people: int = 40_000  # of whom there are photos and no LoRAs
    first_person: int = 3_000  # of the zoo's split, behind those of the zoo
    people_a_step: int = 16
    photos_a_step: int = 2  # of each, to be denoised
    photos: int = 12  # of each person: as many to be given and as many to be denoised
    validation_people: int = 32
    scale: float = 1.5  # of the canonical vector; see `Synthesizer.synthesize`
    num_inference_steps: int = 8
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=3_500, learning_rate=1e-3, warmup_steps=100, weight_decay=0.0, beta2=0.99, ema_decay=0.998,
            validate_every=250, checkpoint_every_s=120.0,
        )
    )  # fmt: skip


def refine(
    world: World, model: Synthesizer, name: str, config: RefineConfig, *, run_dir: Path | None = None
) -> dict[str, float]:
    """Train one of a model's diffusion priors, centre and denoiser, through the base; in place.

    Every step takes new people: a photo of each is embedded, the prior samples a latent at temperature 0, and the LoRA it becomes
    is held against other photos of the person by the base's v-loss. Validation people, seen by nothing else, choose the best
    weights.

    Args:
        world: whose base, encoder and people.
        model: holds the prior.
        name: which.
        config: settings.
        run_dir: for checkpoints and metrics; the same folder again resumes.

    Returns:
        "loss_before" and "loss_after" (the base's loss on photos of the validation people, with the LoRAs made for them),
        "best_step", "seconds". The prior's settings are those that it was trained with.

    Raises:
        UsageError: the prior is not a diffusion prior.
    """
    prior = model.priors[name]
    if not isinstance(prior, DiffusionPrior):
        raise UsageError(f"expected a diffusion prior to refine, got {type(prior).__name__} for {name!r}")
    sampler: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": config.num_inference_steps}
    first = persons_of(Split.ZOO, config.people, offset=config.first_person)[0]
    held = persons_of(Split.VALIDATION, config.validation_people, offset=5_000)

    def loss_for(persons: list[int], given: int, photos: Photos, generator: torch.Generator) -> Tensor:
        embedding = world.embeddings(persons, 1, first=given)[:, 0]
        z = prior.sample(embedding, **sampler)
        vectors = model.canonicalizer.invert(config.scale * model.vae.decode(z))
        return _denoising_loss(world, model, vectors, photos, generator)

    def loss_of(generator: torch.Generator) -> Tensor:
        persons = (torch.randint(config.people, (config.people_a_step,), generator=generator) + first).tolist()
        given, shown = torch.randint(config.photos, (2,), generator=generator).tolist()
        photos = world.photos(persons, config.photos_a_step, first=config.photos + shown)
        return loss_for(persons, given, photos, generator)

    held_photos = world.photos(held, 4, first=config.photos)

    def validate() -> float:
        return sum(loss_for(held, 0, held_photos, step_generator(1, k)).item() for k in range(2)) / 2

    prior.requires_grad_(True)  # the centre too
    for module in prior.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # new people at every step: nothing can be learned by heart
    with torch.no_grad():
        before = validate()
    data = fingerprint(*prior.state_dict().values(), *model.vae.state_dict().values(), *world.pipe.unet.parameters())
    record = config_record(config) | {"data": data}
    metrics = train(
        prior, loss_of, config.loop, validate=validate, run_dir=run_dir, config_record=record, label=f"refine {name}"
    )
    prior.requires_grad_(False)
    model.settings[name] = {**sampler, "guidance_scale": 1.0, "scale": config.scale}
    return {
        "loss_before": before, "loss_after": metrics["best_validation"], "best_step": metrics["best_step"],
        "seconds": metrics["seconds"],
    }  # fmt: skip


def _denoising_loss(
    world: World, model: Synthesizer, vectors: Float[Tensor, "N P"], photos: Photos, generator: torch.Generator
) -> Float[Tensor, ""]:
    """The base's v-loss on J photos of each of N people, seen through the people's LoRAs."""
    unet, scheduler = world.pipe.unet, world.pipe.scheduler
    latents, text = photos.latents.flatten(0, 1), photos.text.flatten(0, 1)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = stratified_timesteps(len(latents), scheduler.config.num_train_timesteps, generator)
    with attached(unet, model.canonicalizer.layout, vectors):
        return v_loss(unet, scheduler, latents, text, noise, timesteps).mean()
