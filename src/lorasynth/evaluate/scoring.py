"""Everything that is asked of pictures of known people: the same questions for every method, and for real photos."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.evaluate.distribution import frechet_distance, people_spread, picture_spread
from lorasynth.evaluate.factors import FactorReader
from lorasynth.evaluate.identity import embed_pictures, interval, person_centroids, similarity, verification_threshold
from lorasynth.gallery import Split
from lorasynth.worlds.domain import Probe
from lorasynth.worlds.reader import Reader
from lorasynth.worlds.subjects import REAL_FROM, SCORED_FROM, persons_of
from lorasynth.worlds.world import World


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Knows some people, and what others look like."""

    persons: list[int]
    nets: dict[str, nn.Module]  # by the score that is theirs
    centroids: dict[str, Float[Tensor, "N D"]]
    thresholds: dict[str, float]
    others: dict[str, Float[Tensor, "M D"]]  # of as many real photos as are generated, of other people
    probe: Probe
    factors: Reader | FactorReader

    @classmethod
    def fit(cls, world: World, persons: list[int], pictures: int) -> "Scorer":
        """Look at real photos.

        Args:
            world: whose.
            persons: whom pictures will be of.
            pictures: how many of each.
        """
        nets: dict[str, nn.Module] = {"similarity": world.encoder, "similarity2": world.second_recogniser}
        strangers = persons_of(Split.VALIDATION, len(persons))
        return cls(
            persons=persons,
            nets=nets,
            centroids={name: person_centroids(world, persons, net, SCORED_FROM) for name, net in nets.items()},
            thresholds={name: verification_threshold(world, net) for name, net in nets.items()},
            others={
                name: world.embeddings(strangers, pictures, first=REAL_FROM, net=net).flatten(0, 1)
                for name, net in nets.items()
            },
            probe=world.domain.probe(),
            factors=world.reader or FactorReader.fit(world.name),
        )

    def real_photos(self, world: World) -> Float[Tensor, "N K 3 H W"]:
        """Photos of the people that nothing else was given, as many as are generated: the ceiling of every score."""
        n, count = len(self.persons), len(self.others["similarity"]) // len(self.persons)
        which = list(range(REAL_FROM, REAL_FROM + count)) * n
        return world.draw([p for p in self.persons for _ in range(count)], which, world.picture_size).unflatten(
            0, (n, count)
        )

    def similarity(self, pictures: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, " N"]:
        """By the conditioning encoder, of each person."""
        return similarity(embed_pictures(self.nets["similarity"], pictures), self.centroids["similarity"])

    def score(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, Any]:
        """The record of some pictures.

        Args:
            pictures: of the people, in their order.
            prompts: what picture k was asked for with; none of real photos.

        Returns:
            By each recogniser: "similarity" (see there), "verified_similarity" (part of pictures that pass for the person where
            one in a thousand real photos of strangers does), "frechet_similarity" (see `frechet_distance`; to real photos of as
            many other people), "people_spread_similarity" (see there). Then "factors" (see `Reader`), "factors_by_name",
            "factor_reader" (its kind), "details" (by a trained reader: each detail, of people who have it and who do not),
            "picture_spread" (see there), and "obeyed" where there are prompts.
        """
        record: dict[str, Any] = {}
        for name, net in self.nets.items():
            embedded = embed_pictures(net, pictures)
            cosines = (embedded * self.centroids[name][:, None]).sum(2)
            record[name] = interval(similarity(embedded, self.centroids[name]))
            record[f"verified_{name}"] = (cosines > self.thresholds[name]).float().mean().item()
            record[f"frechet_{name}"] = frechet_distance(embedded.flatten(0, 1), self.others[name])
            record[f"people_spread_{name}"] = people_spread(embedded)
        explained = self.factors.explained(pictures, self.persons)
        record["factors"] = interval(explained.nanmean(1))
        record["factors_by_name"] = self.factors.by_name(explained)
        record["factor_reader"] = self.factors.kind
        if isinstance(self.factors, Reader):
            record["details"] = detail_scores(self.factors.details_right(pictures, self.persons))
        record["picture_spread"] = interval(picture_spread(pictures))
        if prompts:
            record["obeyed"] = self.probe.obeyed(pictures, prompts)
        return record


def detail_scores(right: dict[str, dict[str, Float[Tensor, " people"]]]) -> dict[str, Any]:
    """Means over people with intervals, and how many people; what nobody can be asked for is left out."""
    return {
        name: {kind: {**interval(people), "people": len(people)} for kind, people in kinds.items() if len(people)}
        for name, kinds in right.items()
    }
