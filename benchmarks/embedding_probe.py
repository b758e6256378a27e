"""What does the embedding of one photo say of a drawn person? The visible features, read off it by two probes, and off the photo.

    python benchmarks/embedding_probe.py --people 19500    # 4 to 12 minutes of a core, most of them to draw

The probes learn from people whom a zoo may hold, a photo each, and are tested on strangers. One is ridge regression,
the other a network of two hidden layers. Both are what an embedding says at the least: a better probe may read more.
Joined is what a synthesizer is given: the encoder with an appearance net, where the world has one.
The reader looks at the photo itself, and has learned from other people. A feature counts where it is
visible, as in scores. The size of glasses counts of those who wear some.
"""

import argparse
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
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
    """One photo of each of N people: its embeddings by each recogniser, the people's features, and which of them are visible."""

    embeddings: dict[str, Float[Tensor, "N D"]]
    features: Float[Tensor, "N f"]
    visible: Bool[Tensor, "N f"]


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
    features, visible = world.domain.features.of(world.domain.identity_factors(persons))
    return Seen(embeddings=embeddings, features=features, visible=visible)


def explained(predicted: Float[Tensor, "N f"], true: Seen) -> Float[Tensor, " f"]:
    """R² of each feature on the people on whom it is visible."""
    y = true.features.masked_fill(~true.visible, torch.nan)
    return 1 - (predicted - y).square().nanmean(0) / (y - y.nanmean(0)).square().nanmean(0)


def ridge(x: Float[Tensor, "N D"], taught: Seen, asked: Float[Tensor, "M D"]) -> Float[Tensor, "M f"]:
    """Ridge regression of each feature on embeddings of unit variance."""
    x, asked, columns = x.double(), asked.double(), []
    for y, visible in zip(taught.features.double().T, taught.visible.T, strict=True):
        shown, mean = x[visible], y[visible].mean()
        gram = shown.T @ shown + RIDGE * torch.eye(x.shape[1]).double()
        columns.append(mean + asked @ torch.linalg.solve(gram, shown.T @ (y[visible] - mean)))
    return torch.stack(columns, 1).float()


def network(x: Float[Tensor, "N D"], taught: Seen, asked: Float[Tensor, "M D"]) -> Float[Tensor, "M f"]:
    """Two hidden layers with dropout, AdamW, a rate that falls to zero."""
    torch.manual_seed(0)
    y, visible = taught.features, taught.visible
    net = nn.Sequential(
        nn.Linear(x.shape[1], 1024), nn.GELU(), nn.Dropout(0.3), nn.Linear(1024, 512), nn.GELU(), nn.Dropout(0.3),
        nn.Linear(512, y.shape[1]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - epoch / EPOCHS)
        for rows in torch.randperm(len(x)).split(256):
            loss = ((net(x[rows]) - y[rows]).square() * visible[rows]).sum() / visible[rows].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return net.eval()(asked)


def main() -> None:
    """The table of features as Markdown, the mean first."""
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
            columns[f"{name}, {probe.__name__}"] = explained(probe(known, taught, unknown), asked)
    by_reader = {}
    if world.reader is not None:
        photos = world.draw(strangers, [n % PHOTOS for n in range(STRANGERS)], world.picture_size)
        by_reader = world.reader.by_name(world.reader.explained(photos[:, None], strangers))
    print("| feature | " + " | ".join(columns) + " | reader |\n" + "|---" * (len(columns) + 2) + "|")
    rows = {"mean": [column.mean() for column in columns.values()]}
    rows |= {
        feature: [column[k] for column in columns.values()] for k, feature in enumerate(world.domain.features.names)
    }
    by_reader["mean"] = sum(by_reader.values()) / max(1, len(by_reader))
    for feature, values in rows.items():
        read = f"{by_reader[feature]:.2f}" if feature in by_reader else "–"
        print(f"| {feature} | " + " | ".join(f"{value:.2f}" for value in values) + f" | {read} |")


if __name__ == "__main__":
    main()
