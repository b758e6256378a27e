"""Are synthesised LoRAs copies of LoRAs that the model learned from? The question to ask of any generator of weights.

Two readings, as either alone misleads:

* **distance**: how far each LoRA is from the nearest of the zoo, ``min ‖ΔW - ΔW'‖``, against how far the zoo's own LoRAs are
  from theirs (as Zeng et al. do, arXiv 2506.07998). A LoRA that is little more than the zoo's mean may be nearer to all of them
  than they are to each other, and a copy times two is far away.
* **direction**: the largest cosine between deviations ``ΔW - ΔW_mean``. It is blind to size.

The part of LoRAs below the first percentile of the zoo's own distances (above the 99th of its cosines) is to be 1 % at most.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.canonical import Canonicalizer
from lorasynth.errors import LayoutError, ZooError
from lorasynth.lora.factors import delta_W_inner, delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.zoo.store import Item, Zoo

PERCENTILE = 0.01
GOOD_SHARE = 0.01  # at most
SAMPLE = 1_000  # of the zoo's LoRAs, whose own distances are what others are held against
_SAMPLE_NUMBERS = 2**29  # in all of them: 2 GiB
_CHUNK_NUMBERS = 2**23  # handled at once: 64 MiB


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest LoRA of a zoo, of each of N LoRAs."""

    distance: Float[Tensor, " N"]  # ‖ΔW - ΔW'‖
    cosine: Float[Tensor, " N"]  # of deviations from the mean: the largest, which may be another LoRA's
    ids: list[str]  # of the item at that distance


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """What the zoo's own nearest neighbours look like, and so what is too near."""

    zoo: Zoo
    mean: Float[Tensor, " P"]  # the LoRA that directions are taken from
    own: Nearest  # of a sample of the training LoRAs, each to those of other people

    @classmethod
    def fit(
        cls, form: Canonicalizer, zoo: Zoo, *, seed: int = 0, report: Callable[[str], None] = print
    ) -> "Memorisation":
        """Look at a zoo that a model learned from.

        Args:
            form: the model's, whose layout and mean LoRA count.
            zoo: its training split is what might be copied.
            seed: of the sample.
            report: gets a line.

        Raises:
            LayoutError: the zoo is of another layout than the model.
            ZooError: it has no training LoRAs of two people.
        """
        if differences := form.layout.diff(zoo.layout):
            raise LayoutError(
                f"{zoo.folder}: expected a zoo of the model's layout, got another ({'; '.join(differences[:3])}); give the zoo "
                "that the model learned from"
            )
        train = _of_split(zoo, "train")
        if len({item.person for item in train}) < 2:
            raise ZooError(f"{zoo.folder}: expected training LoRAs of at least two people; build the zoo first")
        persons, vectors = _sample(zoo, train, seed)
        report(f"comparing {len(persons):,} LoRAs of {zoo.folder} with its {len(train):,} training LoRAs")
        return cls(zoo=zoo, mean=form.mean, own=nearest(zoo, form.mean, vectors, persons))

    def of(self, vectors: Float[Tensor, "N P"]) -> dict[str, Any]:
        """How near LoRAs, of people whom the zoo does not hold, are to the zoo's.

        Returns:
            "distance", "cosine": quantiles of the nearest's. "too_near", "too_aligned": part of the LoRAs that are nearer, or
            more aligned, than all but one in a hundred of the zoo's own; good is 0.01 at most. "closest": the nearest pair's
            item of the zoo, and distance.
        """
        found = nearest(self.zoo, self.mean, vectors)
        at = int(found.distance.argmin())
        return {
            "distance": quantiles(found.distance),
            "cosine": quantiles(found.cosine),
            "too_near": float((found.distance < self.own.distance.quantile(PERCENTILE)).double().mean()),
            "too_aligned": float((found.cosine > self.own.cosine.quantile(1 - PERCENTILE)).double().mean()),
            "closest": {"id": found.ids[at], "distance": float(found.distance[at])},
        }

    def record(self, methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The record of an evaluation: the zoo, its own quantiles, and what `of` said of each method.

        LoRAs that the zoo holds of people held back are a method too, "held_back": new people's real LoRAs, copies of nothing.
        """
        for split in ("held_out", "validation"):
            if items := _of_split(self.zoo, split):
                methods = {**methods, "held_back": self.of(_sample(self.zoo, items)[1])}
                break
        return {
            "zoo": str(self.zoo.folder),
            "zoo_loras": len(_of_split(self.zoo, "train")),
            "sampled": len(self.own.ids),
            "own": {"distance": quantiles(self.own.distance), "cosine": quantiles(self.own.cosine)},
            "methods": methods,
        }


def nearest(
    zoo: Zoo, mean: Float[Tensor, " P"], vectors: Float[Tensor, "N P"], persons: list[int] | None = None
) -> Nearest:
    """The zoo's nearest training LoRA of each LoRA, without forming an update, in one pass over the zoo's shards.

    In float64, as distances are differences of nearly equal numbers.

    Args:
        zoo: where to look.
        mean: the LoRA that directions are taken from.
        vectors: LoRAs.
        persons: of each. The zoo's LoRAs of the same person are passed over.
    """
    layout, middle = zoo.layout, mean.double()[None]
    n, chunk = len(vectors), _chunk(zoo)
    distance2 = torch.full((n,), torch.inf, dtype=torch.float64)
    cosine, ids = torch.full_like(distance2, -torch.inf), [""] * n
    mean2 = delta_W_norm2(layout, middle)
    parts = [slice(start, start + chunk) for start in range(0, n, chunk)]
    sizes = [_sizes(layout, vectors[part], middle) for part in parts]
    for items, rows in _blocks(zoo, _of_split(zoo, "train")):
        y, y_persons = rows.double(), torch.tensor([item.person for item in items])
        y2, y_mean = _sizes(layout, rows, middle)
        for part, (x2, x_mean) in zip(parts, sizes, strict=True):
            xy = delta_W_inner(layout, vectors[part].double(), y)
            # ‖x - y‖², and the cosine of x - mean and y - mean.
            d2 = x2[:, None] + y2 - 2 * xy
            x_deviation, y_deviation = x2 - 2 * x_mean + mean2, y2 - 2 * y_mean + mean2
            lengths = x_deviation.clamp(min=0).sqrt()[:, None] * y_deviation.clamp(min=0).sqrt()
            cos = (xy - x_mean[:, None] - y_mean + mean2) / lengths.clamp(min=1e-300)
            cos[x_deviation < 1e-9 * (x2 + mean2)] = 0  # the mean itself, up to rounding, has no direction
            if persons is not None:
                same = torch.tensor(persons[part])[:, None] == y_persons
                d2, cos = d2.masked_fill(same, torch.inf), cos.masked_fill(same, -torch.inf)
            least, where = d2.min(1)
            for i in (least < distance2[part]).nonzero()[:, 0].tolist():
                ids[part.start + i] = items[int(where[i])].id
            distance2[part] = torch.minimum(distance2[part], least)
            cosine[part] = torch.maximum(cosine[part], cos.max(1).values)
    return Nearest(distance=distance2.clamp(min=0).sqrt(), cosine=cosine.clamp(-1, 1), ids=ids)


def quantiles(values: Float[Tensor, " N"]) -> dict[str, float]:
    """The middle and both ends of a distribution."""
    at = {"p01": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
    return dict(zip(at, values.quantile(torch.tensor(list(at.values()), dtype=values.dtype)).tolist(), strict=True))


def _sizes(
    layout: Layout, vectors: Float[Tensor, "N P"], mean: Float[Tensor, "1 P"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Squared norms of the updates, and their inner products with the mean's, in float64."""
    x = vectors.double()
    return delta_W_norm2(layout, x), delta_W_inner(layout, x, mean)[:, 0]


def _of_split(zoo: Zoo, split: str) -> list[Item]:
    return [item for item in zoo.items if item.split == split]


def _sample(zoo: Zoo, items: list[Item], seed: int = 0) -> tuple[list[int], Float[Tensor, "n P"]]:
    """Persons and LoRAs of some of the items: as many as `SAMPLE`, and as memory, allow."""
    count = min(SAMPLE, max(2, _SAMPLE_NUMBERS // zoo.layout.num_parameters))
    order = torch.randperm(len(items), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[
        :count
    ].tolist()
    blocks = list(_blocks(zoo, [items[i] for i in order]))
    return [item.person for some, _ in blocks for item in some], torch.cat([rows for _, rows in blocks])


def _chunk(zoo: Zoo) -> int:
    """LoRAs that are handled at once."""
    return max(1, _CHUNK_NUMBERS // zoo.layout.num_parameters)


def _blocks(zoo: Zoo, items: list[Item]) -> Iterator[tuple[list[Item], Float[Tensor, "n P"]]]:
    """Items and their LoRAs, a chunk at a time, shard by shard: small shards come together, of large ones come parts."""
    wanted = {item.id: item for item in items}
    some: list[Item] = []
    rows: list[Tensor] = []
    for shard in sorted({item.shard for item in items}):
        for name, row, _ in zoo.rows(shard):
            if name in wanted:
                some.append(wanted[name])
                rows.append(row)
            if len(some) == _chunk(zoo):
                yield some, torch.stack(rows)
                some, rows = [], []
    if some:
        yield some, torch.stack(rows)
