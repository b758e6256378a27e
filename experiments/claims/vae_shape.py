"""(h) Is the space of LoRAs curved: does a VAE of MLPs keep more of a LoRA than principal components do?"""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evidence.context import ExperimentContext, Method
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """A VAE of another shape; scored by what it leaves of people's own LoRAs.

    Returns:
        `score`'s figures of people's own LoRAs through the VAE, and "parameters" of encoder and decoder.
    """
    recipe = replace(
        context.recipe.vae, stem=config["stem"], hidden_dim=config["hidden_dim"], latent_dim=config["latent_dim"]
    )
    if not config["trained"]:  # its start is the best linear VAE
        recipe = replace(recipe, loop=replace(recipe.loop, steps=0))
    vae, _ = context.vae(recipe, seed)
    parts = (vae.encoder, vae.logvar, vae.decoder)
    return context.score(reconstruction(context, vae)) | {
        "parameters": float(sum(p.numel() for part in parts for p in part.parameters()))
    }


@runtime_checkable
class Autoencoder(Protocol):
    """What takes vectors to latents and back."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior."""

    def decode(self, z: Tensor) -> Tensor:
        """Vectors."""


def reconstruction(context: ExperimentContext, vae: Autoencoder) -> Method:
    """People's own LoRAs through a VAE."""

    @torch.no_grad()
    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        return vae.decode(vae.encode(context.x[rows])[0])

    return method


def _cell(stem: str, trained: bool, latent_dim: int, hidden_dim: int = 256) -> Config:
    return {"stem": stem, "trained": trained, "latent_dim": latent_dim, "hidden_dim": hidden_dim}


EXPERIMENT = Experiment(
    name="vae-shape",
    title="People's own LoRAs through VAEs: untrained (linear, PCA) or trained MLPs, by latent length, width and stem",
    cells={
        f"{'mlp' if trained else 'linear'}-{stem}-m{m}": _cell(stem, trained, m)
        for stem in ("principal", "predictable")
        for m in (32, 256)
        for trained in (False, True)
    }
    | {f"mlp-principal-m32-wide{w}": _cell("principal", True, 32, w) for w in (1024,)},
    run=run,
    claims=(
        Claim(
            text="LoRAs lie on a curved manifold: of 32 numbers, an MLP VAE explains more of a new LoRA than PCA",
            source="Mechanism 1",
            criterion=more("explained", "mlp-principal-m32", "linear-principal-m32"),
        ),
        Claim(
            text="The same at 256 numbers",
            source="Mechanism 1",
            criterion=more("explained", "mlp-principal-m256", "linear-principal-m256"),
        ),
        Claim(
            text="Of 32 numbers, predictable directions keep more likeness than principal ones",
            source="ours",
            criterion=more("similarity", "linear-predictable-m32", "linear-principal-m32"),
        ),
    ),
)
