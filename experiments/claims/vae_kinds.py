"""(h) Other weight VAEs than ours: an MLP on whole vectors, a token for each module, and a loss that sees ΔW."""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from claims.metric import in_metric
from claims.vae_shape import reconstruction
from evidence.context import ExperimentContext, seeded
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures
from lorasynth.training import train
from lorasynth.vae import LoRAVAE
from lorasynth.vae.loss import reconstruction_error, sample_posterior, vae_loss


class PlainVAE(nn.Module):
    """A VAE of two networks that begin at random weights, as the paper's are."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        """Put an encoder (F -> 2 Z) and a decoder (Z -> F) together."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Vectors -> mean and log-variance of the posterior."""
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return mean, logvar.clamp(-10, 4)

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B F"]:
        """Latents -> vectors."""
        decoded: Tensor = self.decoder(z)
        return decoded


class Tokens(nn.Module):
    """Each module's numbers <-> a token of its own, by a linear map of its own."""

    def __init__(self, blocks: list[int], width: int, *, outwards: bool = False):
        """Make the maps.

        Args:
            blocks: how many numbers a vector has of each of M modules.
            width: of a token.
            outwards: from tokens to numbers.
        """
        super().__init__()
        self.sizes = [width] * len(blocks) if outwards else blocks
        self.maps = nn.ModuleList(nn.Linear(width, n) if outwards else nn.Linear(n, width) for n in blocks)

    def forward(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B K"]:
        """All modules' numbers -> all tokens, or back."""
        return torch.cat([f(part) for f, part in zip(self.maps, x.split(self.sizes, dim=1), strict=True)], dim=1)


def mlp(*widths: int, dropout: float) -> nn.Sequential:
    """Linear layers with SiLU and dropout between them."""
    layers: list[nn.Module] = []
    for i, (inner, outer) in enumerate(pairwise(widths)):
        layers += [nn.SiLU(), nn.Dropout(dropout)] if i else []
        layers.append(nn.Linear(inner, outer))
    return nn.Sequential(*layers)


def plain_vae(kind: str, blocks: list[int], config: Config, dropout: float) -> PlainVAE:
    """The VAE of a cell: "whole" (an MLP on whole vectors) or "tokens" (an MLP on the tokens of all modules)."""
    z, hidden = config["latent_dim"], config["hidden_dim"]
    if kind == "whole":
        f = sum(blocks)
        return PlainVAE(
            mlp(f, hidden, hidden, 2 * z, dropout=dropout), mlp(z, hidden, hidden, f, dropout=dropout)
        )  # fmt: skip
    width = config["token_width"]
    k = width * len(blocks)
    return PlainVAE(
        nn.Sequential(Tokens(blocks, width), mlp(k, hidden, hidden, 2 * z, dropout=dropout)),
        nn.Sequential(mlp(z, hidden, hidden, k, dropout=dropout), Tokens(blocks, width, outwards=True)),
    )


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """A VAE of another kind, for as many steps; scored by what it leaves of people's own LoRAs.

    Returns:
        `score`'s figures of people's own LoRAs through the VAE, and "parameters" of encoder and decoder.
    """
    context = in_metric(context, config["loss"])
    vae = (_ours if config["kind"] == "ours" else _plain)(context, config, seed)
    return context.score(reconstruction(context, vae)) | {"parameters": float(sum(p.numel() for p in vae.parameters()))}


def _ours(context: ExperimentContext, config: Config, seed: int) -> LoRAVAE:
    """From the best linear VAE on."""
    recipe = context.recipe.vae
    shape = replace(
        recipe, stem="principal", hidden_dim=config["hidden_dim"], latent_dim=config["latent_dim"],
        loop=replace(recipe.loop, steps=config["fitting_steps"]),
    )  # fmt: skip
    return context.vae(shape, seed)[0]


def _plain(context: ExperimentContext, config: Config, seed: int) -> PlainVAE:
    """From random weights on; the choosing people choose among the averages of the way."""
    torch.manual_seed(seed)
    x, recipe = context.x, context.recipe.vae
    vae = plain_vae(config["kind"], context.canonicalizer.blocks, config, recipe.dropout)
    loop = replace(seeded(recipe.loop, seed), steps=config["fitting_steps"], learning_rate=config["learning_rate"])

    def loss_of(generator: torch.Generator) -> Tensor:
        seen = x[context.train[torch.randint(len(context.train), (recipe.batch_size,), generator=generator)]]
        mean, logvar = vae.encode(seen)
        z = sample_posterior(mean, logvar, torch.randn(mean.shape, generator=generator))
        return vae_loss(seen, vae.decode(z), mean, logvar, recipe.kl_weight)

    @torch.no_grad()
    def validate() -> float:
        held = x[context.choosing]
        return reconstruction_error(held, vae.decode(vae.encode(held)[0])).item()

    train(vae, loss_of, loop, validate=validate, label=config["kind"])
    return vae.eval()


def _cell(kind: str, latent_dim: int, loss: str = "canonical") -> Config:
    width = {"token_width": 32} if kind == "tokens" else {}
    rate = {} if kind == "ours" else {"learning_rate": 1e-3}
    return {
        "kind": kind, "latent_dim": latent_dim, "hidden_dim": 256, "loss": loss, "fitting_steps": 1_000
    } | width | rate  # fmt: skip


EXPERIMENT = Experiment(
    name="vae-kinds",
    title="People's own LoRAs through VAEs of equal latents and steps. Ours starts at PCA, an MLP on whole vectors and one on a "
    "token for each module at random weights. A fourth is ours with errors of ΔW",
    cells={
        **{f"{kind}-m{m}": _cell(kind, m) for m in (32, 256) for kind in ("ours", "whole", "tokens")},
        **{f"ours-delta_W-m{m}": _cell("ours", m, "delta_W") for m in (32, 256)},
    },
    run=run,
    claims=(
        Claim(
            text="A weight VAE that begins as PCA keeps more of a new LoRA than an MLP on whole vectors from random weights",
            source="ours",
            criterion=more("explained", "ours-m256", "whole-m256"),
        ),
        Claim(
            text="A token for each module keeps more than an MLP on whole vectors, both from random weights",
            source="ours",
            criterion=more("explained", "tokens-m256", "whole-m256"),
        ),
        Claim(
            text="The same in likeness",
            source="ours",
            criterion=more("similarity", "tokens-m256", "whole-m256"),
        ),
        Claim(
            text="A loss that sees ΔW instead of scaled entries keeps more of ΔW, of 32 numbers",
            source="ours",
            criterion=more("explained", "ours-delta_W-m32", "ours-m32"),
        ),
        Claim(
            text="It keeps more likeness, too",
            source="ours",
            criterion=more("similarity", "ours-delta_W-m32", "ours-m32"),
        ),
    ),
)
