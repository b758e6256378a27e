"""(k) What neighbours build into a network that writes LoRAs, each by itself: a basis, modules, a response map, other losses.

One network predicts canonical vectors from the embedding of a photo, as hypernetworks do. Cells differ in its last layer, in
what it is told of the base, or in its loss. It is not centred on ridge regression: around that, none of them learned anything
that held-out people confirm (dev/LOG.md). The ideas are those of HyperLoRA (a basis for each matrix), LoRAGen (a decoder that
knows its module, losses of angles and spectra) and LoFA (a response map, the base's weights). They are tried here on one zoo,
without the rest of those systems.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from claims.vae_kinds import Tokens, mlp
from evidence.context import ExperimentContext, seeded
from evidence.experiment import Claim, Config, Experiment, more
from evidence.statistics import Figures
from lorasynth.lora.layout import Layout
from lorasynth.training import train
from lorasynth.vae.loss import reconstruction_error

SPECTRUM = 16  # singular values that a module is told of the base's weight


class Whole(nn.Module):
    """One linear map to all numbers of a LoRA."""

    def __init__(self, width: int, num_features: int):
        """Make a map that says nothing at first: the network begins as the zoo's mean LoRA."""
        super().__init__()
        self.map = _silent(nn.Linear(width, num_features))

    def forward(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B F"]:
        """The trunk's features -> a canonical vector."""
        vectors: Tensor = self.map(h)
        return vectors


class Basis(nn.Module):
    """Coefficients of a learned basis for each matrix, which begins as its principal directions."""

    def __init__(self, width: int, bases: list[Float[Tensor, "k Fm"]]):
        """Take the directions to begin with, of each module."""
        super().__init__()
        self.bases = nn.ParameterList(nn.Parameter(basis) for basis in bases)
        self.coefficients = _silent(nn.Linear(width, sum(map(len, bases))))

    def forward(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B F"]:
        """The trunk's features -> a canonical vector."""
        parts = self.coefficients(h).split([len(basis) for basis in self.bases], dim=1)
        return torch.cat([part @ basis for part, basis in zip(parts, self.bases, strict=True)], dim=1)


class Modules(nn.Module):
    """One small network for all modules, told which one it writes; then a linear map for each."""

    told: Tensor

    def __init__(self, width: int, blocks: list[int], token_width: int, told: Float[Tensor, "M K"], dropout: float):
        """Make the network.

        Args:
            width: of the trunk's features.
            blocks: how many numbers a vector has of each module.
            token_width: of what a module is told by, and of what is written for it.
            told: of each module.
            dropout: in the shared network.
        """
        super().__init__()
        self.register_buffer("told", told)
        self.token = nn.Linear(told.shape[1], token_width)
        self.shared = mlp(width + token_width, width, token_width, dropout=dropout)
        self.out = _silent(Tokens(blocks, token_width, outwards=True))

    def forward(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B F"]:
        """The trunk's features -> a canonical vector."""
        tokens = self.token(self.told)
        pairs = torch.cat([h[:, None].expand(-1, len(tokens), -1), tokens.expand(len(h), -1, -1)], dim=2)
        vectors: Tensor = self.out(self.shared(pairs).flatten(1))
        return vectors


class Response(nn.Module):
    """One linear map, each number of which is multiplied by how much it is expected to move."""

    def __init__(self, width: int, num_features: int):
        """Make the two maps."""
        super().__init__()
        self.size = _silent(nn.Linear(width, num_features))
        self.whole = Whole(width, num_features)

    def map_of(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B F"]:
        """The response map: how large each number will be, 1 at first."""
        sizes: Tensor = self.size(h).exp()
        return sizes

    def forward(self, h: Float[Tensor, "B H"]) -> Float[Tensor, "B F"]:
        """The trunk's features -> a canonical vector."""
        vectors: Tensor = self.map_of(h).detach() * self.whole(h)
        return vectors


class Network(nn.Module):
    """Embedding -> canonical vector."""

    def __init__(self, embedding_dim: int, width: int, head: nn.Module, dropout: float):
        """Put a trunk in front of a head."""
        super().__init__()
        self.trunk = nn.Sequential(mlp(embedding_dim, width, width, dropout=dropout), nn.SiLU(), nn.Dropout(dropout))
        self.head = head

    def features(self, e: Float[Tensor, "B D"]) -> Float[Tensor, "B H"]:
        """Unit embeddings -> the trunk's features."""
        h: Tensor = self.trunk(e * e.shape[1] ** 0.5)  # entries of about unit size
        return h

    def forward(self, e: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """Unit embeddings -> canonical vectors."""
        vectors: Tensor = self.head(self.features(e))
        return vectors


def run(context: ExperimentContext, config: Config, seed: int) -> Figures:
    """A network with one kind of head and loss, for as many steps as all others.

    Returns:
        `score`'s figures, and the network's "parameters".
    """
    torch.manual_seed(seed)
    dropout = context.recipe.vae.dropout
    net = Network(context.embeddings.shape[2], config["hidden_dim"], _head(context, config, dropout), dropout)
    _fit(context, net, config, seed)

    @torch.no_grad()
    def method(rows: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        predicted: Tensor = net(context.photo(rows))
        return predicted

    return context.score(method) | {"parameters": float(sum(p.numel() for p in net.parameters()))}


def _head(context: ExperimentContext, config: Config, dropout: float) -> nn.Module:
    width, blocks = config["hidden_dim"], context.canonicalizer.blocks
    if config["head"] == "basis":
        parts = context.x[context.train].split(blocks, dim=1)
        return Basis(width, [torch.linalg.svd(part, full_matrices=False)[2][: config["basis"]] for part in parts])
    if config["head"] == "modules":
        # A row of the unit matrix is a token of the module's own.
        told = spectra(context) if config["told"] == "base" else torch.eye(len(blocks))
        return Modules(width, blocks, config["token_width"], told, dropout)
    return (Response if config["head"] == "response" else Whole)(width, context.canonicalizer.num_features)


def spectra(context: ExperimentContext) -> Float[Tensor, "M K"]:
    """What modules are told of the base: the leading singular values of each one's weight, standardised."""
    weights = dict(context.world.base.denoiser.named_parameters())
    rows = []
    for name in context.zoo.layout.slices:
        values = torch.linalg.svdvals(weights[f"{name}.weight"].detach().flatten(1).float())[:SPECTRUM]
        rows.append(F.pad(values, (0, SPECTRUM - len(values))))
    table = torch.stack(rows)
    return (table - table.mean(0)) / table.std(0).clamp(min=1e-6)


@dataclass(frozen=True)
class Losses:
    """How far predictions are from LoRAs, by numbers, angles and spectra."""

    context: ExperimentContext
    size: float  # of a canonical vector, squared: the mean over the zoo

    def entries(self, got: Float[Tensor, "B F"], wanted: Float[Tensor, "B F"]) -> Float[Tensor, ""]:
        """The squared error, as a part of a LoRA's squared size."""
        return (got - wanted).square().sum(1).mean() / self.size

    def angles(self, got: Float[Tensor, "B F"], wanted: Float[Tensor, "B F"]) -> Float[Tensor, ""]:
        """One minus the cosine, of each module's deviation from the zoo's mean."""
        blocks = self.context.canonicalizer.blocks
        pairs = zip(got.split(blocks, dim=1), wanted.split(blocks, dim=1), strict=True)
        return torch.stack([1 - F.cosine_similarity(a, b, dim=1).mean() for a, b in pairs]).mean()

    def spectra(self, got: Float[Tensor, "B F"], wanted: Float[Tensor, "B F"]) -> Float[Tensor, ""]:
        """The squared error of the singular values of each module's update, as a part of their squares."""
        form, layout = self.context.canonicalizer, self.context.zoo.layout
        ours, theirs = (singular_values(layout, form.invert(x)) for x in (got, wanted))
        errors = [(a - b).square().sum(1).mean() / b.square().sum(1).mean() for a, b in zip(ours, theirs, strict=True)]
        return torch.stack(errors).mean()


def singular_values(layout: Layout, vectors: Float[Tensor, "B P"]) -> list[Float[Tensor, "B R"]]:
    """Those of each module's update, by the eigenvalues of an R x R matrix, which gradients run through."""
    values = []
    for A_NRI, B_NOR in layout.split(vectors).values():
        L = torch.linalg.cholesky(A_NRI @ A_NRI.transpose(1, 2))
        core = L.transpose(1, 2) @ B_NOR.transpose(1, 2) @ B_NOR @ L
        values.append(torch.linalg.eigvalsh(core).clamp(min=1e-12).sqrt())
    return values


def _fit(context: ExperimentContext, net: Network, config: Config, seed: int) -> None:
    """Train it. The choosing people choose among the averages of the way, by squared error."""
    x, embeddings, train_rows = context.x, context.embeddings, context.train
    losses = Losses(context, x[train_rows].square().sum(1).mean().item())
    besides: Callable[..., Tensor] | None = {"angles": losses.angles, "spectra": losses.spectra}.get(config["loss"])
    recipe = context.recipe.priors[0]
    loop = replace(seeded(recipe.loop, seed), steps=config["fitting_steps"], learning_rate=config["learning_rate"])

    def loss_of(generator: torch.Generator) -> Tensor:
        # 1. People, and one photo of each.
        rows = train_rows[torch.randint(len(train_rows), (recipe.batch_size,), generator=generator)]
        photo = torch.randint(embeddings.shape[1], (len(rows),), generator=generator)
        e, wanted = embeddings[rows, photo], x[rows]
        # 2. What the network says, and how far it is off.
        got = net(e)
        loss = losses.entries(got, wanted)
        if besides is not None:
            loss = loss + config["weight"] * besides(got, wanted)
        # 3. The response map learns how large each number is.
        if isinstance(net.head, Response):
            size, expected = wanted.abs(), net.head.map_of(net.features(e).detach())
            loss = loss + (expected - size / size.mean()).square().mean()
        return loss

    @torch.no_grad()
    def validate() -> float:
        held = context.choosing
        return reconstruction_error(x[held], net(context.photo(held))).item()

    train(net, loss_of, loop, validate=validate, label=config["head"])
    net.eval()


def _silent(layer: nn.Module) -> nn.Module:
    """The layer with weights of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _cell(head: str, loss: str = "entries", **others: int | float | str) -> Config:
    usual = {"hidden_dim": 128, "fitting_steps": 1_000, "learning_rate": 1e-3}
    return {"head": head, "loss": loss} | usual | others


EXPERIMENT = Experiment(
    name="heads",
    title="One network from embedding to canonical vector, for equal steps, with last layers and losses that neighbours propose",
    cells={
        "whole": _cell("whole"),
        "basis": _cell("basis", basis=16),
        "modules": _cell("modules", token_width=64, told="nothing"),
        "modules-of-base": _cell("modules", token_width=64, told="base"),
        "response": _cell("response"),
        "angles": _cell("whole", "angles", weight=0.3),
        "spectra": _cell("whole", "spectra", weight=0.3),
    },
    run=run,
    claims=(
        Claim(
            text="A learned basis for each matrix draws more likeness than one linear map to all numbers",
            source="ours (after HyperLoRA)",
            criterion=more("similarity", "basis", "whole"),
        ),
        Claim(
            text="A decoder that is told its module draws more likeness than one linear map",
            source="ours (after LoRAGen)",
            criterion=more("similarity", "modules", "whole"),
        ),
        Claim(
            text="Told the spectrum of the base's weights, it draws more than with a token of its own",
            source="ours (after LoFA)",
            criterion=more("similarity", "modules-of-base", "modules"),
        ),
        Claim(
            text="A response map draws more likeness",
            source="ours (after LoFA)",
            criterion=more("similarity", "response", "whole"),
        ),
        Claim(
            text="A loss of angles draws more likeness than squared errors alone",
            source="ours (after LoRAGen)",
            criterion=more("similarity", "angles", "whole"),
        ),
        Claim(
            text="A loss of singular values draws more likeness than squared errors alone",
            source="ours (after LoRAGen)",
            criterion=more("similarity", "spectra", "whole"),
        ),
    ),
)
