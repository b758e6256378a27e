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

_PHOTOS = 40  # of a person, of which some are seen
_APART = 13  # numbers between two photos of a person that are seen
_STANDARD = 6_000  # people on whom the principal components of session photos are measured


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """How an appearance net is trained."""

    width: int = 64
    people: int = 49_500  # of whom photos are seen
    strangers: int = 500  # whom the reports are about
    photos: int = 3  # of each, one of which is seen at a time
    session_photos: int = 2  # of each, that are to be told
    components: int = 256  # of what session photos differ in, all told equally
    batch_size: int = 64
    noise: float = 0.15  # at most, on the latents that are seen
    steps: int = 16_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Principal components, of unit variance each, of some vectors."""

    mean: Float[Tensor, " L"]
    directions: Float[Tensor, "L K"]

    @property
    def components(self) -> int:
        """K."""
        return self.directions.shape[1]

    def __call__(self, vectors: Float[Tensor, "B L"]) -> Float[Tensor, "B K"]:
        """Vectors -> their components."""
        return (vectors - self.mean) @ self.directions


def whitening(vectors: Float[Tensor, "N L"], components: int) -> Whitening:
    """The first principal components of some vectors whose entries are first brought to unit variance.

    Args:
        vectors: N of them.
        components: how many, at most N - 1.
    """
    mean, deviation = vectors.mean(0), vectors.std(0).clamp(min=1e-3)
    x = (vectors - mean) / deviation
    # The eigenvectors of the covariance, the largest eigenvalue first.
    values, directions = torch.linalg.eigh(x.mT @ x / (len(x) - 1))
    count = min(components, len(x) - 1)
    values, directions = values.flip(0)[:count], directions.flip(1)[:, :count]
    return Whitening(mean=mean, directions=directions / deviation[:, None] / values.clamp(min=1e-6).sqrt())


def train_appearance(
    domain: Domain,
    vae: "AutoencoderKL",
    config: AppearanceConfig,
    *,
    run_dir: Path,
    report: Callable[[str], None] = print,
) -> AppearanceNet:
    """Train an appearance net without a word about features: one photo has to say what others look like.

        loss = |linear(net(latents of a photo)) - principal components of the person's session photos|²

    Session photos have the same pose, light, expression and clothes for everybody (`lorasynth.worlds.subjects.SESSION`). What
    differs in them is the person, in all that the picture VAE keeps. A recogniser that tells people apart need not see it: skin
    and hair are enough. They weigh far more in the latents than eyes and brows, too. So the components are scaled to unit
    variance each. Photographs have no session. The mean of two other photos told nearly as much in a short training (dev/LOG.md,
    2026-11-30).

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

    def kept(name: str, photos: list[int]) -> LatentStore:
        return LatentStore.open(domain, vae, domain.picture_size, persons, photos, run_dir / name)

    seen = [kept(f"seen-{k}", [(p + _APART * k) % _PHOTOS for p in persons]) for k in range(config.photos)]
    session = [kept(f"session-{k}", [SESSION + k] * count) for k in range(config.session_photos)]

    def sat(rows: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        return torch.cat([store.latents(rows).flatten(1) for store in session], 1)

    told = whitening(sat(torch.arange(min(_STANDARD, config.people))), config.components)
    strangers = config.people + torch.arange(config.strangers)
    torch.manual_seed(config.seed)
    net = AppearanceNet(patch_of(vae), vae.config.latent_channels, config.width)
    weight, bias = affine_encoder(vae)
    net.patches.weight.data = weight.reshape(net.patches.weight.shape).contiguous()
    net.patches.bias.data = bias.clone()  # type: ignore[union-attr]
    net.patches.requires_grad_(False)
    head = nn.Linear(net.net.head.out_features, told.components)

    def error(rows: Int[Tensor, " B"], latents: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
        embedding = net.net(latents) * head.in_features**0.5  # of unit variance
        return (head(embedding) - told(sat(rows))).square().mean()

    learned = [*net.net.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=0.0, weight_decay=config.weight_decay, fused=True)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm_cosine(step / config.steps)
        generator = step_generator(config.seed, step)
        rows = torch.randint(config.people, (config.batch_size,), generator=generator)
        which = int(torch.randint(config.photos, (1,), generator=generator))
        latents = seen[which].latents(rows)
        loud = config.noise * torch.rand(len(rows), 1, 1, 1, generator=generator)
        loss = error(rows, latents + loud * torch.randn(latents.shape, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == config.steps:
            net.eval()
            with torch.no_grad():
                held = torch.stack([error(part, seen[0].latents(part)) for part in strangers.split(100)]).mean()
            net.train()
            report(f"appearance step {step + 1} of {config.steps} loss {loss.item():.3f}, of strangers {held:.3f}")
    return net.eval().requires_grad_(False)
