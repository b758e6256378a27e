"""A prior trained through the base model: the LoRA that it samples must make the base predict the person.

A zoo teaches where LoRAs lie, at the price of one fine-tuning a person; and the squared error between weights, by which it is
learned from, weighs a direction of LoRA space by how far LoRAs spread along it, not by what it does to a picture. From then on
a person to learn from needs photos and no LoRA: what the base predicts with the LoRA made for them says what is wrong with it.
The gradient runs through the frozen base, the LoRA, the canonical form, the VAE's decoder and every step of the prior's sampler,
as reward fine-tuning does it for pictures (DRaFT, Clark et al., ICLR 2024). Goes beyond the paper, whose prior ends with the
v-loss.

Two things are asked of a prediction: that it denoises the person's photo (the base's own loss), and that a critic takes what it
predicts for the person. The first alone hardly sees identity, which is a small part of a picture's error.

In the end the VAE's decoder learns along. What it has from the zoo are the directions in which LoRAs vary, and they need not be
those in which a picture becomes a person's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import UsageError
from lorasynth.lora.bank import attached
from lorasynth.prior import DiffusionPrior
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig, config_record, fingerprint, step_generator, stratified_uniform, train
from lorasynth.worlds.portraits.factors import Split, persons_of
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.recogniser_training import RecogniserConfig, degrade, train_recogniser
from lorasynth.worlds.world import Photos, World

CRITIC_PHOTOS = 3
"""Photos of a person whose embeddings by the critic are averaged: who the prediction shall be taken for."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Training of priors, and of the VAE's decoder, through the base model; and of the critic that they are held against."""

    people: int = 40_000  # of whom there are photos and no LoRAs
    first_person: int = 3_000  # of the zoo's split, behind those of the zoo
    people_a_step: int = 16
    photos: int = 12  # of each person: as many to be given and as many to be denoised
    validation_people: int = 32
    scale: float = 1.5  # of the canonical vector; see `Synthesizer.synthesize`
    num_inference_steps: int = 8
    noise_from: float = 0.6  # the part of the noise schedule, up to 1, in which a picture's person is decided
    identity_weight: float = 1.0
    critic: RecogniserConfig = field(default_factory=lambda: RecogniserConfig(loss="arcface", steps=1_600))
    critic_people: int = 6_000
    critic_noise: float = 0.3  # at most, on the latents it learns from: predictions are not clean
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=8_000, learning_rate=1.5e-3, warmup_steps=50, weight_decay=0.0, beta2=0.99, ema_decay=0.998,
            validate_every=250, checkpoint_every_s=120.0,
        )
    )  # fmt: skip


def train_critic(world: World, config: RefineConfig) -> LatentNet:
    """A recogniser of the base model's latents, on people that the encoder has not learned from; frozen."""

    def see(pictures: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B C h w"]:
        latents = world.latents(degrade(pictures, generator))
        loud = config.critic_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
        return latents + loud * torch.randn(latents.shape, generator=generator)

    torch.manual_seed(config.critic.seed)
    net = LatentNet(world.pipe.unet.config.in_channels)
    persons = persons_of(Split.ENCODER, config.critic_people, offset=50_000)
    train_recogniser(world.draw, persons, config.critic, net=net, see=see)
    return net.requires_grad_(False)


def refine(
    world: World,
    model: Synthesizer,
    names: Sequence[str],
    critic: nn.Module,
    config: RefineConfig,
    *,
    with_decoder: bool = False,
    run_dir: Path | None = None,
) -> dict[str, float]:
    """Train some of a model's diffusion priors, centre and denoiser, through the base; in place.

    Every step takes new people, in equal shares for the priors: a photo of each is embedded, the prior samples a latent at
    temperature 0, and the LoRA it becomes is held against another photo of the person: noise is added, the base predicts, and

        loss = v-loss + identity_weight * (1 - cos(critic(predicted latent), critic's mean embedding of the person)).

    Validation people, seen by nothing else, choose the best weights.

    Args:
        world: whose base, encoder and people.
        model: holds the priors.
        names: which.
        critic: latents -> unit embeddings; neither of the recognisers that score.
        config: settings.
        with_decoder: whether the VAE's decoder learns along, its stem included. NOTE: the stem is no longer orthonormal then, and
            the encoder no longer the decoder's; see `LoRAVAE.orthonormalize` and `fit_encoder`.
        run_dir: for checkpoints and metrics; the same folder again resumes.

    Returns:
        "loss_before" and "loss_after" (on photos of the validation people, with the LoRAs made for them; mean over the priors),
        "best_step", "seconds". The priors' settings are those that they were trained with.

    Raises:
        UsageError: one is not a diffusion prior.
    """
    priors: list[Any] = [model.priors[name] for name in names]
    for name, prior in zip(names, priors, strict=True):
        if not isinstance(prior, DiffusionPrior):
            raise UsageError(f"expected a diffusion prior to refine, got {type(prior).__name__} for {name!r}")
    learned = nn.ModuleDict(dict(zip(names, priors, strict=True)))
    if with_decoder:
        learned["decoder"], learned["stem"] = model.vae.decoder, model.vae.stem
    sampler: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": config.num_inference_steps}
    first = persons_of(Split.ZOO, config.people, offset=config.first_person)[0]
    held = persons_of(Split.VALIDATION, config.validation_people, offset=5_000)

    def loss_for(
        priors: list[Any], embedding: Float[Tensor, "N D"], photos: Photos, generator: torch.Generator
    ) -> Tensor:
        shares = zip(priors, embedding.tensor_split(len(priors)), strict=True)
        z = torch.cat([prior.sample(share, **sampler) for prior, share in shares])
        vectors = model.canonicalizer.invert(config.scale * model.vae.decode(z))
        return prediction_loss(world, model, vectors, photos, critic, config, generator)

    def loss_of(generator: torch.Generator) -> Tensor:
        persons = (torch.randint(config.people, (config.people_a_step,), generator=generator) + first).tolist()
        given, shown = torch.randint(config.photos, (2,), generator=generator).tolist()
        embedding = world.embeddings(persons, 1, first=given)[:, 0]
        photos = world.photos(persons, CRITIC_PHOTOS, first=config.photos + shown)
        return loss_for(priors, embedding, photos, generator)

    held_embedding = world.embeddings(held, 1)[:, 0]
    held_photos = world.photos(held, CRITIC_PHOTOS, first=config.photos)

    def validate() -> float:
        losses = [loss_for([p], held_embedding, held_photos, step_generator(1, k)) for p in priors for k in range(4)]
        return sum(loss.item() for loss in losses) / len(losses)

    learned.requires_grad_(True)  # the centres too
    for module in learned.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # new people at every step: nothing can be learned by heart
    with torch.no_grad():
        before = validate()
    frozen = (model.vae, critic, world.pipe.unet)
    data = fingerprint(*learned.state_dict().values(), *(t for part in frozen for t in part.state_dict().values()))
    record = config_record(config) | {"data": data}
    metrics = train(
        learned, loss_of, config.loop, validate=validate, run_dir=run_dir, config_record=record,
        label="end to end" if with_decoder else f"refine {' '.join(names)}",
    )  # fmt: skip
    learned.requires_grad_(False)
    for name in names:
        model.settings[name] = {**sampler, "guidance_scale": 1.0, "scale": config.scale}
    return {
        "loss_before": before, "loss_after": metrics["best_validation"], "best_step": metrics["best_step"],
        "seconds": metrics["seconds"],
    }  # fmt: skip


def prediction_loss(
    world: World,
    model: Synthesizer,
    vectors: Float[Tensor, "N P"],
    photos: Photos,
    critic: nn.Module,
    config: RefineConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """v-loss and identity loss of what the base predicts for the first photo of each of N people, through the people's LoRAs."""
    unet, scheduler = world.pipe.unet, world.pipe.scheduler
    with torch.no_grad():
        seen = critic(photos.latents.flatten(0, 1)).unflatten(0, photos.latents.shape[:2])
        person = F.normalize(seen.mean(1), dim=1)
    latents = photos.latents[:, 0]
    noise = torch.randn(latents.shape, generator=generator)
    part = config.noise_from + (1 - config.noise_from) * stratified_uniform(len(latents), generator)
    timesteps = (part * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    with attached(unet, model.canonicalizer.layout, vectors):
        v = unet(noisy, timesteps, encoder_hidden_states=photos.text[:, 0], return_dict=False)[0]
    alpha_bar = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    predicted = (
        alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * v
    )  # of the clean latent (Salimans & Ho, ICLR 2022, appendix D)
    identity = 1 - (critic(predicted) * person).sum(1).mean()
    return F.mse_loss(v, scheduler.get_velocity(latents, noise, timesteps)) + config.identity_weight * identity
