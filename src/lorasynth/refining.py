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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lorasynth.errors import UsageError
from lorasynth.evaluate.identity import likeness, person_centroids
from lorasynth.evaluate.methods import SCORED_FROM
from lorasynth.lora.bank import attached
from lorasynth.prior import DiffusionPrior
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig, config_record, fingerprint, step_generator, stratified_uniform, train
from lorasynth.vae import zoo_loss
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


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig:
    """Training of priors and VAE together, through the base model, while the VAE goes on holding the zoo."""

    through: RefineConfig = field(
        default_factory=lambda: RefineConfig(
            states="drawn", people_a_step=12, scale=1.5, identity_weight=1.0,
            loop=replace(RefineConfig().loop, steps=4_500, learning_rate=5e-4, validate_every=200),
        )
    )  # fmt: skip
    zoo_weight: float = 0.5
    zoo_batch: int = 64
    kl_weight: float = 1e-4


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
    held = persons_of(Split.VALIDATION, config.validation_people, offset=5_000)
    held_embedding = world.embeddings(held, 1)[:, 0]
    held_photos = world.photos(held, CRITIC_PHOTOS, first=config.photos)

    def validate() -> float:
        losses = [
            _loss_for(world, model, [name], held_embedding, held_photos, critic, config, step_generator(1, k))
            for k in range(4)
        ]
        return sum(loss.item() for loss in losses) / len(losses)

    def loss_of(generator: torch.Generator) -> Tensor:
        return _loss_for(world, model, [name], *_people(world, config, generator), critic, config, generator)

    priors = _diffusion_priors(model, [name])
    frozen = [model.vae, critic, world.pipe.unet]
    before, metrics = _train(
        priors, frozen, loss_of, validate, config, config_record(config), f"refine {name}", run_dir
    )
    model.settings[name] = _settings(config)
    return {"loss_before": before, "loss_after": metrics["best_validation"]} | _how_long(metrics)


def end_to_end(
    world: World,
    model: Synthesizer,
    names: Sequence[str],
    critic: nn.Module,
    zoo: Float[Tensor, "N F"],
    config: EndToEndConfig,
    *,
    run_dir: Path | None = None,
) -> dict[str, float]:
    """Train diffusion priors and the VAE together through the base; in place.

    What a VAE has from the zoo are the directions in which LoRAs vary, and they need not be those in which a picture becomes
    a person's. Every step gives each prior an equal share of new people, on `refine`'s loss; the VAE goes on holding the zoo:

        loss = refine's + zoo_weight * VAE's own loss on LoRAs of the zoo (`zoo_loss`).

    What is drawn for validation people, seen by nothing else, chooses the best weights: the mean similarity of their pictures
    by the conditioning encoder, which no gradient has come through.

    Args:
        world: whose base, encoder and people.
        model: holds the priors and the VAE. Other priors of its VAE have to be fitted again afterwards.
        names: which priors.
        critic: latents -> unit embeddings; neither of the recognisers that score.
        zoo: canonical vectors of the zoo's training people.
        config: settings.
        run_dir: for checkpoints and metrics; the same folder again resumes.

    Returns:
        "likeness_before" and "likeness_after" (of the validation people, mean over the priors), "best_step", "seconds".
        The priors' settings are those that they were trained with.

    Raises:
        UsageError: one of the priors is not a diffusion prior.
    """
    through = config.through
    held = persons_of(Split.VALIDATION, through.validation_people, offset=5_000)
    held_embedding = world.embeddings(held, 1)[:, 0]
    centroids = person_centroids(world, held, world.encoder, SCORED_FROM)

    def validate() -> float:
        sampled = [_vectors(model, [name], held_embedding, through) for name in names]
        return 1 - sum(likeness(world, model.canonicalizer.layout, v, centroids) for v in sampled) / len(sampled)

    def loss_of(generator: torch.Generator) -> Tensor:
        loss = _loss_for(world, model, names, *_people(world, through, generator), critic, through, generator)
        rows = torch.randint(len(zoo), (config.zoo_batch,), generator=generator)
        return loss + config.zoo_weight * zoo_loss(model.vae, zoo[rows], config.kl_weight, generator)

    learned = _diffusion_priors(model, names)
    learned["vae"] = model.vae
    frozen = [critic, world.pipe.unet]
    record = config_record(config) | {"zoo": fingerprint(zoo)}
    before, metrics = _train(learned, frozen, loss_of, validate, through, record, "end to end", run_dir)
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
) -> tuple[float, dict[str, float]]:
    """Validation before, and the loop's figures after."""
    learned.requires_grad_(True)  # the priors' centres too
    for module in learned.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # new people at every step: nothing can be learned by heart
    with torch.no_grad():
        before = validate()
    data = fingerprint(*(t for part in (learned, *frozen) for t in part.state_dict().values()))
    record = record | {"data": data}
    metrics = train(
        learned, loss_of, config.loop, validate=validate, run_dir=run_dir, config_record=record, label=label
    )
    learned.requires_grad_(False)
    return before, metrics


def _people(world: World, config: RefineConfig, generator: torch.Generator) -> tuple[Float[Tensor, "N D"], Photos]:
    """New people: the embedding of a photo of each, and other photos."""
    first = persons_of(Split.ZOO, config.people, offset=config.first_person)[0]
    persons = (torch.randint(config.people, (config.people_a_step,), generator=generator) + first).tolist()
    given, shown = torch.randint(config.photos, (2,), generator=generator).tolist()
    embedding = world.embeddings(persons, 1, first=given)[:, 0]
    return embedding, world.photos(persons, CRITIC_PHOTOS, first=config.photos + shown)


def _vectors(
    model: Synthesizer, names: Sequence[str], embedding: Float[Tensor, "N D"], config: RefineConfig
) -> Float[Tensor, "N P"]:
    """LoRAs, with gradients; of people in equal shares by each prior."""
    shares = zip(names, embedding.tensor_split(len(names)), strict=True)
    sampler: dict[str, Any] = {"temperature": 0.0, "num_inference_steps": config.num_inference_steps}
    z = torch.cat([cast(DiffusionPrior, model.priors[name]).sample(share, **sampler) for name, share in shares])
    return model.canonicalizer.invert(config.scale * model.vae.decode(z))


def _loss_for(
    world: World,
    model: Synthesizer,
    names: Sequence[str],
    embedding: Float[Tensor, "N D"],
    photos: Photos,
    critic: nn.Module,
    config: RefineConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    of_loras = drawing_loss if config.states == "drawn" else photo_loss
    return of_loras(world, model, _vectors(model, names, embedding, config), photos, critic, config, generator)


def _settings(config: RefineConfig) -> dict[str, Any]:
    return {
        "temperature": 0.0, "num_inference_steps": config.num_inference_steps, "guidance_scale": 1.0, "scale": config.scale
    }  # fmt: skip


def _how_long(metrics: dict[str, float]) -> dict[str, float]:
    return {"best_step": metrics["best_step"], "seconds": metrics["seconds"]}


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
