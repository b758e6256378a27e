"""What does the embedding of one photo say of a drawn person? The factors, read off it by two probes, and off the photo.

    python benchmarks/embedding_probe.py --people 19500    # 12 minutes of a core, most of them to draw

The probes learn from people whom a zoo may hold, a photo each, and are tested on strangers. "ridge" is ridge regression,
"network" has two hidden layers. Both are what an embedding says at the least: more people or a better probe may read more.
"joined" is what a synthesizer is given: the encoder with an appearance net, where the world has one.
"reader" looks at the photo itself, and has learned from other people.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.gallery import Role
from lorasynth.worlds.subjects import persons_of
from lorasynth.worlds.world import World, get_world

STRANGERS = 400
PHOTOS = 12  # of a person, one of which is seen
RIDGE = 300.0
EPOCHS = 14


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One photo of each of N people: its embeddings by each recogniser, and the people's factors."""

    embeddings: dict[str, Float[Tensor, "N D"]]
    factors: Float[Tensor, "N identity"]


@torch.no_grad()
def look(world: World, persons: list[int]) -> Seen:
    """Draw, and embed."""
    nets = {"encoder": world.encoder, "joined": world.embedder, "second": world.second_recogniser}
    if world.embedder is world.encoder:
        del nets["joined"]
    found: dict[str, list[Tensor]] = {name: [] for name in nets}
    for start in range(0, len(persons), 64):
        part = persons[start : start + 64]
        pictures = world.draw(part, [n % PHOTOS for n in range(len(part))], world.picture_size)
        for name, net in nets.items():
            found[name].append(net(pictures))
    embeddings = {name: torch.cat(parts) for name, parts in found.items()}
    return Seen(embeddings=embeddings, factors=world.domain.identity_factors(persons))


def explained(predicted: Float[Tensor, "N f"], true: Float[Tensor, "N f"]) -> Float[Tensor, " f"]:
    """R² of each factor."""
    return 1 - (predicted - true).square().mean(0) / (true - true.mean(0)).square().mean(0)


def ridge(x: Float[Tensor, "N D"], y: Float[Tensor, "N f"], asked: Float[Tensor, "M D"]) -> Float[Tensor, "M f"]:
    """Ridge regression of centred factors on embeddings of unit variance."""
    x, asked, mean = x.double(), asked.double(), y.double().mean(0)
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ (y - mean))
    return (mean + asked @ weights).float()


def network(x: Float[Tensor, "N D"], y: Float[Tensor, "N f"], asked: Float[Tensor, "M D"]) -> Float[Tensor, "M f"]:
    """Two hidden layers with dropout, AdamW, a rate that falls to zero."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(x.shape[1], 1024), nn.GELU(), nn.Dropout(0.3), nn.Linear(1024, 512), nn.GELU(), nn.Dropout(0.3),
        nn.Linear(512, y.shape[1]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - epoch / EPOCHS)
        for rows in torch.randperm(len(x)).split(256):
            loss = F.mse_loss(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return net.eval()(asked)


def main() -> None:
    """The table of factors as Markdown, the mean first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="portraits128")
    parser.add_argument("--people", type=int, default=19_500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    world = get_world(given.world)
    taught, strangers = look(world, persons_of(Role.ZOO, given.people)), persons_of(Role.STRANGERS, STRANGERS)
    asked = look(world, strangers)
    columns = {}
    for name, x in taught.embeddings.items():
        mean, spread = x.mean(0), x.std(0)
        known, unknown = (x - mean) / spread, (asked.embeddings[name] - mean) / spread
        for probe in (ridge, network):
            columns[f"{name}, {probe.__name__}"] = explained(probe(known, taught.factors, unknown), asked.factors)
    by_reader = {}
    if world.reader is not None:
        photos = world.draw(strangers, [n % PHOTOS for n in range(STRANGERS)], world.picture_size)
        by_reader = world.reader.by_name(world.reader.explained(photos[:, None], strangers))
    print("| factor | " + " | ".join(columns) + " | reader |\n" + "|---" * (len(columns) + 2) + "|")
    rows = {"mean": [column.mean() for column in columns.values()]}
    rows |= {factor: [column[k] for column in columns.values()] for k, factor in enumerate(world.domain.identity)}
    by_reader["mean"] = sum(by_reader.values()) / max(1, len(by_reader))
    for factor, values in rows.items():
        read = f"{by_reader[factor]:.2f}" if factor in by_reader else "–"
        print(f"| {factor} | " + " | ".join(f"{value:.2f}" for value in values) + f" | {read} |")


if __name__ == "__main__":
    main()
