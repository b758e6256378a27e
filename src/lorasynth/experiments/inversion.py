"""LoRAs as combinations of others, fitted to one photo by the base model's own loss: no encoder, no prior, many steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical import Canonicalizer
from lorasynth.lora.bank import attached
from lorasynth.training import step_generator
from lorasynth.worlds.base import stratified_timesteps, v_loss
from lorasynth.worlds.world import Photos, World

BATCH = 4  # noises of the one photo in a step


def fit_coefficients(
    world: World,
    form: Canonicalizer,
    basis: Float[Tensor, "K F"],
    photos: Photos,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
) -> Float[Tensor, "N F"]:
    """Canonical vectors ``c @ basis`` with which the base denoises each person's first photo best.

    With principal components as the basis this is weights2weights' inversion (Dravid et al., NeurIPS 2024), with the zoo's own
    LoRAs the mixing of LoRAs that the paper's authors call PCLora. Starts at the mean LoRA; Adam, its rate falling to zero.

    Args:
        world: whose base.
        form: the canonical form of the basis.
        basis: K directions, each as long as it is usual for LoRAs to go, so that coefficients are of size 1.
        photos: of N people.
        steps: of Adam.
        learning_rate: of Adam.
        seed: of noise and timesteps, which all people share.
    """
    unet, scheduler = world.pipe.unet, world.pipe.scheduler
    latents, text = (
        part[:, :1].expand(-1, BATCH, *part.shape[2:]).flatten(0, 1) for part in (photos.latents, photos.text)
    )
    n = len(photos.latents)
    coefficients = torch.zeros(n, len(basis), requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        generator = step_generator(seed, step)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator).repeat(n, 1, 1, 1)
        timesteps = stratified_timesteps(BATCH, scheduler.config.num_train_timesteps, generator).repeat(n)
        with attached(unet, form.layout, form.invert(coefficients @ basis)):
            losses = v_loss(unet, scheduler, latents, text, noise, timesteps)
        optimizer.zero_grad()
        (losses.sum() / BATCH).backward()
        optimizer.step()
    return coefficients.detach() @ basis


def principal_directions(x: Float[Tensor, "N F"], num: int) -> Float[Tensor, "K F"]:
    """The leading principal components of vectors of mean zero, each as long as its standard deviation; at most N - 1."""
    values, vectors = torch.linalg.eigh((x @ x.T).double())
    order = values.argsort(descending=True)[: min(num, len(x) - 1)]
    return (vectors[:, order].T.float() @ x) / (len(x) - 1) ** 0.5
