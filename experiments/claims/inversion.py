"""LoRAs as combinations of others, fitted to one photo by the base model's own loss: no encoder, no prior, many steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base import Base, Photos, denoising_loss
from lorasynth.canonical import Canonicalizer
from lorasynth.lora.bank import attached
from lorasynth.training import step_generator, stratified_uniform

BATCH = 4  # noises of the one photo in a step


def fit_coefficients(
    base: Base,
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
        base: frozen.
        form: the canonical form of the basis.
        basis: K directions, each as long as it is usual for LoRAs to go, so that coefficients are of size 1.
        photos: of N people.
        steps: of Adam.
        learning_rate: of Adam.
        seed: of noise and its levels, which all people share.
    """
    n = len(photos)
    latents, prompts, _ = photos.batch(torch.arange(n)[:, None], torch.zeros(n, BATCH, dtype=torch.long))
    coefficients = torch.zeros(n, len(basis), requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        generator = step_generator(seed, step)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator).repeat(n, 1, 1, 1)
        level = base.schedule.level(stratified_uniform(BATCH, generator).repeat(n))
        with attached(base.denoiser, form.layout, form.invert(coefficients @ basis)):
            losses = denoising_loss(base, latents, noise, level, prompts)
        optimizer.zero_grad()
        (losses.sum() / BATCH).backward()
        optimizer.step()
    return coefficients.detach() @ basis


def principal_directions(x: Float[Tensor, "N F"], num: int) -> Float[Tensor, "K F"]:
    """The leading principal components of vectors of mean zero, each as long as its standard deviation; at most N - 1."""
    values, vectors = torch.linalg.eigh((x @ x.T).double())
    order = values.argsort(descending=True)[: min(num, len(x) - 1)]
    return (vectors[:, order].T.float() @ x) / (len(x) - 1) ** 0.5
