"""A prior trained through the base model: the LoRA that it samples must make the base predict the person.

A zoo teaches where LoRAs lie, at the price of one fine-tuning a person; and the squared error between weights, by which it is
learned from, weighs a direction of LoRA space by how far LoRAs spread along it, not by what it does to a picture. From then on
a person to learn from needs photos and no LoRA: what the base predicts with the LoRA made for them says what is wrong with it.
The gradient runs through the frozen base, the LoRA, the canonical form, the VAE's decoder and every step of the prior's sampler,
as reward fine-tuning does it for pictures (DRaFT, Clark et al., ICLR 2024). Goes beyond the paper, whose prior ends with the
v-loss.

Two things are asked of the base: that it denoises the person's photo (its own loss), and that a critic takes what it predicts for
the person. The first alone hardly sees identity, which is a small part of a picture's error.

The critic first looks at predictions from noisy photos, which is quick, and then at predictions on the way of the sampler itself,
which is what a user gets: a LoRA that does well from photos need not draw well, and one that is trained on photos for long, or
with more freedom, learns to please the critic there and draws worse (dev/LOG.md).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
    """Training of a prior through the base model, and of the critic that it is held against."""

    people: int = 40_000  # of whom there are photos and no LoRAs
    first_person: int = 3_000  # of the zoo's split, behind those of the zoo
    people_a_step: int = 16
    photos: int = 12  # of each person: as many to be given and as many to be denoised
    validation_people: int = 32
    scale: float = 1.5  # of the canonical vector; see `Synthesizer.synthesize`
    num_inference_steps: int = 8
    states: Literal["photo", "drawn"] = "photo"  # that the critic sees predictions from: `photo_loss`, `drawing_loss`
    noise_from: float = 0.6  # "photo": the part of the noise schedule, up to 1, in which a picture's person is decided
    drawing_steps: int = 10  # "drawn": of the base's sampler
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
    world: World, model: Synthesizer, name: str, critic: nn.Module, config: RefineConfig, *, run_dir: Path | None = None
) -> dict[str, float]:
    """Train one of a model's diffusion priors, centre and denoiser, through the base; in place.

    Every step takes new people: a photo of each is embedded, the prior samples a latent at temperature 0, and the LoRA it becomes
    is held against other photos of the person:

        loss = v-loss + identity_weight * (1 - cos(critic(predicted latent), critic's mean embedding of the person)).

    Validation people, seen by nothing else, choose the best weights.

    Args:
        world: whose base, encoder and people.
        model: holds the prior.
        name: which.
        critic: latents -> unit embeddings; neither of the recognisers that score.
        config: settings.
        run_dir: for checkpoints and metrics; the same folder again resumes.

    Returns:
        "loss_before" and "loss_after" (on the validation people, with the LoRAs made for them), "best_step", "seconds".
        The prior's settings are those that it was trained with.

    Raises:
        UsageError: the prior is not a diffusion prior.
    """
    prior = model.priors[name]
    if not isinstance(prior, DiffusionPrior):
        raise UsageError(f"expected a diffusion prior to refine, got {type(prior).__name__} for {name!r}")
    of_loras = drawing_loss if config.states == "drawn" else photo_loss
    sampler: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": config.num_inference_steps}
    first = persons_of(Split.ZOO, config.people, offset=config.first_person)[0]
    held = persons_of(Split.VALIDATION, config.validation_people, offset=5_000)

    def loss_for(embedding: Float[Tensor, "N D"], photos: Photos, generator: torch.Generator) -> Tensor:
        z = prior.sample(embedding, **sampler)
        vectors = model.canonicalizer.invert(config.scale * model.vae.decode(z))
        return of_loras(world, model, vectors, photos, critic, config, generator)

    def loss_of(generator: torch.Generator) -> Tensor:
        persons = (torch.randint(config.people, (config.people_a_step,), generator=generator) + first).tolist()
        given, shown = torch.randint(config.photos, (2,), generator=generator).tolist()
        embedding = world.embeddings(persons, 1, first=given)[:, 0]
        return loss_for(embedding, world.photos(persons, CRITIC_PHOTOS, first=config.photos + shown), generator)

    held_embedding = world.embeddings(held, 1)[:, 0]
    held_photos = world.photos(held, CRITIC_PHOTOS, first=config.photos)

    def validate() -> float:
        return sum(loss_for(held_embedding, held_photos, step_generator(1, k)).item() for k in range(4)) / 4

    prior.requires_grad_(True)  # the centre too
    for module in prior.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # new people at every step: nothing can be learned by heart
    with torch.no_grad():
        before = validate()
    frozen = (model.vae, critic, world.pipe.unet)
    data = fingerprint(*prior.state_dict().values(), *(t for part in frozen for t in part.state_dict().values()))
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


def photo_loss(
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
    latents = photos.latents[:, 0]
    noise = torch.randn(latents.shape, generator=generator)
    part = config.noise_from + (1 - config.noise_from) * stratified_uniform(len(latents), generator)
    timesteps = (part * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    with attached(unet, model.canonicalizer.layout, vectors):
        v = unet(noisy, timesteps, encoder_hidden_states=photos.text[:, 0], return_dict=False)[0]
    identity = _identity_loss(critic, _clean(scheduler, noisy, v, timesteps), photos)
    return F.mse_loss(v, scheduler.get_velocity(latents, noise, timesteps)) + config.identity_weight * identity


def drawing_loss(
    world: World,
    model: Synthesizer,
    vectors: Float[Tensor, "N P"],
    photos: Photos,
    critic: nn.Module,
    config: RefineConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """v-loss as in `photo_loss`, at all noise levels; identity loss of what the base predicts on its own way to a picture.

    From noise, the sampler takes some of its steps with each person's LoRA, without gradients; what is predicted in the next one
    is shown to the critic (as ReFL does with its reward, Xu et al., NeurIPS 2023).
    """
    unet, scheduler, layout = world.pipe.unet, world.pipe.scheduler, model.canonicalizer.layout
    latents, text = photos.latents[:, 0], photos.text[:, 0]
    x = torch.randn(latents.shape, generator=generator)
    scheduler.set_timesteps(config.drawing_steps)
    taken = int(torch.randint(1, config.drawing_steps, (1,), generator=generator))
    with torch.no_grad(), attached(unet, layout, vectors.detach()):
        for t in scheduler.timesteps[:taken]:
            v = unet(x, t, encoder_hidden_states=text, return_dict=False)[0]
            x = scheduler.step(v, t, x, return_dict=False)[0]
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = (stratified_uniform(len(latents), generator) * scheduler.config.num_train_timesteps).long()
    drawn_at = scheduler.timesteps[taken].expand(len(x))
    # Of each person, one after the other: the state that was drawn, and the noisy photo.
    rows = torch.stack([x, scheduler.add_noise(latents, noise, timesteps)], 1).flatten(0, 1)
    both = torch.stack([drawn_at, timesteps], 1).flatten()
    with attached(unet, layout, vectors):
        v = unet(rows, both, encoder_hidden_states=text.repeat_interleave(2, 0), return_dict=False)[0]
    of_drawn, of_photo = v.unflatten(0, (-1, 2)).unbind(1)
    identity = _identity_loss(critic, _clean(scheduler, x, of_drawn, drawn_at), photos)
    return F.mse_loss(of_photo, scheduler.get_velocity(latents, noise, timesteps)) + config.identity_weight * identity


def _clean(
    scheduler: Any, noisy: Float[Tensor, "N C h w"], v: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
) -> Float[Tensor, "N C h w"]:
    """The clean latent that a v stands for (Salimans & Ho, ICLR 2022, appendix D)."""
    alpha_bar = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * v


def _identity_loss(critic: nn.Module, predicted: Float[Tensor, "N C h w"], photos: Photos) -> Float[Tensor, ""]:
    """1 - cosine, by the critic, of predicted latents to the mean of each person's photos."""
    with torch.no_grad():
        seen = critic(photos.latents.flatten(0, 1)).unflatten(0, photos.latents.shape[:2])
        person = F.normalize(seen.mean(1), dim=1)
    return 1 - (critic(predicted) * person).sum(1).mean()
