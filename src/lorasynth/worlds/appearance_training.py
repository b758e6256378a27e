"""Training an appearance net: from any photo of a person to what the person looks like where everybody sits for one session."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lorasynth.training import step_generator
from lorasynth.worlds.domain import Domain
from lorasynth.worlds.latent_store import LatentStore
from lorasynth.worlds.recogniser import AppearanceNet
from lorasynth.worlds.recogniser_training import warm_cosine
from lorasynth.worlds.subjects import SESSION, Role, persons_of
from lorasynth.worlds.vae import affine_encoder, patch_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_PHOTOS = 40  # of a person, one of which is seen
_STANDARD = 1_000  # people on whom the latents' mean and deviation are measured


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """How an appearance net is trained."""

    width: int = 64
    people: int = 23_500  # of whom one photo is seen
    strangers: int = 500  # whom the reports are about
    session_photos: int = 2  # of each, that are to be told
    batch_size: int = 64
    noise: float = 0.15  # at most, on the latents that are seen
    steps: int = 8_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


def train_appearance(
    domain: Domain,
    vae: "AutoencoderKL",
    config: AppearanceConfig,
    *,
    run_dir: Path,
    report: Callable[[str], None] = print,
) -> AppearanceNet:
    """Train an appearance net without a word about features: one photo has to say what others look like.

        loss = |linear(net(latents of a photo)) - latents of the person's session photos|², both of unit variance

    Session photos have the same pose, light, expression and clothes for everybody (`lorasynth.worlds.subjects.SESSION`). What
    differs in them is the person, in all that the picture VAE keeps. A recogniser that tells people apart need not see it: skin
    and hair are enough. Photographs have no session. There the mean of several photos could take its place, which was not tried.

    Args:
        domain: whose people.
        vae: the base's picture VAE, whose encoder is affine in each patch.
        config: settings.
        run_dir: keeps latents, so that the same folder again draws nothing.
        report: gets a line of progress now and then.

    Returns:
        The network, in evaluation mode.
    """
    count = config.people + config.strangers
    persons = persons_of(Role.ENCODER, count)
    seen = LatentStore.open(domain, vae, domain.picture_size, persons, [p % _PHOTOS for p in persons], run_dir / "seen")
    session = [
        LatentStore.open(domain, vae, domain.picture_size, persons, [SESSION + k] * count, run_dir / f"session-{k}")
        for k in range(config.session_photos)
    ]

    def told(rows: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        return torch.cat([store.latents(rows).flatten(1) for store in session], 1)

    standard = told(torch.arange(min(_STANDARD, config.people)))
    mean, deviation = standard.mean(0), standard.std(0).clamp(min=1e-3)
    strangers = config.people + torch.arange(config.strangers)
    torch.manual_seed(config.seed)
    net = AppearanceNet(patch_of(vae), vae.config.latent_channels, config.width)
    weight, bias = affine_encoder(vae)
    net.patches.weight.data = weight.reshape(net.patches.weight.shape).contiguous()
    net.patches.bias.data = bias.clone()  # type: ignore[union-attr]
    net.patches.requires_grad_(False)
    head = nn.Linear(net.net.head.out_features, standard.shape[1])

    def error(rows: Int[Tensor, " B"], latents: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
        embedding = net.net(latents) * head.in_features**0.5  # of unit variance
        return (head(embedding) - (told(rows) - mean) / deviation).square().mean()

    learned = [*net.net.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=0.0, weight_decay=config.weight_decay, fused=True)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cosine(step / config.steps)
        generator = step_generator(config.seed, step)
        rows = torch.randint(config.people, (config.batch_size,), generator=generator)
        latents = seen.latents(rows)
        loud = config.noise * torch.rand(len(rows), 1, 1, 1, generator=generator)
        loss = error(rows, latents + loud * torch.randn(latents.shape, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == config.steps:
            net.eval()
            with torch.no_grad():
                held = sum(error(part, seen.latents(part)) for part in strangers.split(100)) / len(strangers.split(100))
            net.train()
            report(f"appearance step {step + 1} of {config.steps} loss {loss.item():.3f}, of strangers {held:.3f}")
    return net.eval().requires_grad_(False)
