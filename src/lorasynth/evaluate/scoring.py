"""Everything that is asked of pictures of known people: the same questions for every method, and for real photos."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.evaluate.distribution import frechet_distance, people_spread, picture_spread
from lorasynth.evaluate.identity import (
    average_precision,
    copy_paste,
    embed_pictures,
    interval,
    similarity,
    verification_threshold,
)
from lorasynth.evaluate.prompt_classifier import prompt_judge
from lorasynth.evaluate.text_alignment import TextAlignment
from lorasynth.gallery import Split
from lorasynth.subjects import SIMILARITY, Extras, Recogniser, Subjects, mean_directions
from lorasynth.worlds.factor_reader import FactorReader
from lorasynth.worlds.reader import Reader

TEXT_ALIGNMENT = "text_alignment"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Knows some people, and what others look like."""

    subjects: Subjects
    people: list[int]
    pictures: int  # of each
    recognisers: dict[str, Recogniser]  # by the score that is theirs
    given: dict[str, Float[Tensor, "N D"]]  # the photo of each that LoRAs are synthesised from
    scored: dict[str, list[Float[Tensor, "J D"]]]  # other photos of each
    centroids: dict[str, Float[Tensor, "N D"]]  # their mean directions
    thresholds: dict[str, float]
    others: dict[str, Float[Tensor, "M D"]]  # of as many real photos as are generated, of other people
    extras: Extras | None
    alignment: TextAlignment | None = None

    @classmethod
    def fit(
        cls, subjects: Subjects, people: list[int], pictures: int, alignment: TextAlignment | None = None
    ) -> "Scorer":
        """Look at real photos.

        Args:
            subjects: whose.
            people: whom pictures will be of.
            pictures: how many of each.
            alignment: asks whether prompts are obeyed, of any subjects.
        """
        recognisers = {name: subjects.recogniser(name) for name in subjects.recognisers}
        scored = {name: subjects.scored(people, name) for name in recognisers}
        others = subjects.real(subjects.people(Split.VALIDATION, len(people)), pictures)
        return cls(
            subjects=subjects,
            people=people,
            pictures=pictures,
            recognisers=recognisers,
            given={name: subjects.given(people, by=name)[:, 0] for name in recognisers},
            scored=scored,
            centroids={name: mean_directions(embeddings) for name, embeddings in scored.items()},
            thresholds={name: verification_threshold(subjects, name) for name in recognisers},
            others={name: embed_pictures(each, others).flatten(0, 1) for name, each in recognisers.items()},
            extras=subjects.extras(),
            alignment=alignment,
        )

    def real_photos(self) -> Float[Tensor, "N K 3 H W"]:
        """Photos of the people that no method was given, as many as are generated: the ceiling of every score."""
        return self.subjects.real(self.people, self.pictures)

    def similarity(self, pictures: Float[Tensor, "N K 3 H W"]) -> Float[Tensor, " N"]:
        """By the conditioning encoder, of each person."""
        return similarity(embed_pictures(self.recognisers[SIMILARITY], pictures), self.centroids[SIMILARITY])

    def score(self, pictures: Float[Tensor, "N K 3 H W"], prompts: list[str]) -> dict[str, Any]:
        """The record of some pictures.

        Args:
            pictures: of the people, in their order.
            prompts: of picture k. Real photos have none.

        Returns:
            By each recogniser:

            * "similarity" (see there),
            * "verified_similarity": part of pictures that pass for the person where one in a thousand photos of strangers does,
            * "unrecognised_similarity": part of pictures in which it finds nothing to embed, each of similarity 0,
            * "copy_paste_similarity": `copy_paste`, of people on whose pictures there is something to embed,
            * "retrieval_similarity": mean `average_precision` in a gallery of these people's other photos (mAP),
            * "frechet_similarity": `frechet_distance` to real photos of as many other people,
            * "people_spread_similarity" (see there).

            Also "picture_spread" (see there), and where there are prompts "obeyed" and "text_alignment" by CLIP. "obeyed" is the
            part of pictures that show what was asked for: by a drawn world's probe, else by the base (`PromptClassifier`). In
            a drawn world also "factors" (see `Reader`), "factors_by_name" and "factor_reader" (its kind). A trained reader adds
            "details": each detail, of people who have it and of others.
        """
        record: dict[str, Any] = {}
        for name, recogniser in self.recognisers.items():
            embedded = embed_pictures(recogniser, pictures)
            cosines = (embedded * self.centroids[name][:, None]).sum(2)
            record[name] = interval(similarity(embedded, self.centroids[name]))
            record[f"verified_{name}"] = (cosines > self.thresholds[name]).float().mean().item()
            record[f"unrecognised_{name}"] = (embedded.norm(dim=2) == 0).float().mean().item()
            record |= self._against_photos(name, embedded)
            record[f"frechet_{name}"] = frechet_distance(embedded.flatten(0, 1), self.others[name])
            record[f"people_spread_{name}"] = people_spread(embedded)
        record["picture_spread"] = interval(picture_spread(pictures))
        if self.alignment is not None and prompts:
            record[TEXT_ALIGNMENT] = interval(self.alignment(pictures, prompts))
        if self.extras is not None:
            record |= self._truth(self.extras.factors, pictures)
        if obeyed := prompt_judge(self.subjects.base, self.extras).obeyed(pictures, prompts):
            record["obeyed"] = obeyed
        return record

    def _against_photos(self, name: str, embedded: Float[Tensor, "N K D"]) -> dict[str, dict[str, float]]:
        """Pictures beside single photos: the one that was given, and all others of these people."""
        scored = self.scored[name]
        gallery, owners = (
            torch.cat(scored),
            torch.arange(len(scored)).repeat_interleave(torch.tensor([*map(len, scored)])),
        )
        found = [average_precision(drawn, gallery, owners == person).mean() for person, drawn in enumerate(embedded)]
        record = {f"retrieval_{name}": interval(torch.stack(found))}
        copied = [
            copy_paste(drawn[drawn.norm(dim=1) > 0], given, others).mean()
            for drawn, given, others in zip(embedded, self.given[name], scored, strict=True)
            if drawn.any()
        ]
        if copied:
            record[f"copy_paste_{name}"] = interval(torch.stack(copied))
        return record

    def _truth(self, factors: Reader | FactorReader, pictures: Float[Tensor, "N K 3 H W"]) -> dict[str, Any]:
        """What a drawn world knows of its people."""
        explained = factors.explained(pictures, self.people)
        record = {
            "factors": interval(explained.nanmean(1)),
            "factors_by_name": factors.by_name(explained),
            "factor_reader": factors.kind,
        }
        if isinstance(factors, Reader):
            record["details"] = detail_scores(factors.details_right(pictures, self.people))
        return record


def detail_scores(right: dict[str, dict[str, Float[Tensor, " people"]]]) -> dict[str, Any]:
    """Means over people with intervals, and how many people. Details that nobody can be asked for are left out."""
    return {
        name: {kind: {**interval(people), "people": len(people)} for kind, people in kinds.items() if len(people)}
        for name, kinds in right.items()
    }
