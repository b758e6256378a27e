"""Each prior's settings and the default prior, by pictures of validation subjects, or by weights where no picture is drawn."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.evaluate.identity import likeness
from lorasynth.evaluate.prompt_classifier import drawn_obedience, prompt_judge
from lorasynth.evaluate.weights import errors_of
from lorasynth.gallery import Role
from lorasynth.pipeline.choosing import Score, choose_default, choose_settings, format_settings, tolerance
from lorasynth.subjects import Subjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.domain import Probe

PICTURE_SCALES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.6, 2.0, 2.4)
WEIGHT_SCALES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)
Scores = dict[str, dict[str, float]]
"""By prior, and by the settings in words."""


class TuningByPictures:
    """Pictures of some subjects choose settings: the most similar of those that show what was asked for.

    "Asked for" as `lorasynth.pipeline.choosing.LESS_OBEDIENT` says.
    """

    def __init__(
        self, subjects: Subjects, model: Synthesizer, people: int, *, report: Callable[[str], None] = print
    ) -> None:
        """Nothing is drawn yet.

        Args:
            subjects: whose pictures, and the base that draws them.
            model: what it chooses for, in place.
            people: of the choosing role, at most.
            report: gets a line a score.
        """
        self.subjects, self.model, self.report = subjects, model, report
        self.tried: Scores = {}  # similarity of every setting tried
        self.asked: Scores = {}  # the part of pictures that show what was asked for, of those it was asked of
        chosen = subjects.people(Role.CHOOSING, people)
        self.seen = len(chosen)  # subjects whose pictures choose
        self._less = tolerance(self.seen)
        self._embedding, self._centroids = subjects.given(chosen)[:, 0], subjects.centroids(chosen)

    def choose(self, names: Sequence[str]) -> None:
        """Set the settings of some priors."""
        self.tried |= choose_settings(self.model, PICTURE_SCALES, self._similarity, self._judged, names, self._less)

    def choose_default(self) -> None:
        """Set the default prior. All priors have been chosen for."""
        choose_default(self.model, self.tried, self._judged, self._less, report=self.report)
        if self._judged is not None:
            self._judged(self.model.default_prior, self.model.settings[self.model.default_prior])  # for the card

    def base_similarity(self) -> float:
        """Similarity of the base's own pictures: what a LoRA has to add to."""
        return self._likeness(torch.zeros(len(self._centroids), self.model.canonicalizer.layout.num_parameters))

    @cached_property
    def _judge(self) -> Probe:
        return prompt_judge(self.subjects.base, self.subjects.extras())

    @property
    def _judged(self) -> Score | None:
        """Asks of obedience, where there are two prompts to tell apart."""
        return self._obeyed if len(set(self.subjects.prompts)) > 1 else None

    def _similarity(self, name: str, settings: dict[str, Any]) -> float:
        value = self._likeness(self.model.synthesize(self._embedding, prior=name, **settings))
        self.report(f"{name} {format_settings(settings)}: likeness {value:.3f}")
        return value

    def _likeness(self, vectors: Float[Tensor, "N P"]) -> float:
        return likeness(self.subjects, self.model.canonicalizer.layout, vectors, self._centroids)

    def _obeyed(self, name: str, settings: dict[str, Any]) -> float:
        of_prior, words = self.asked.setdefault(name, {}), format_settings(settings)
        if words not in of_prior:
            vectors, subjects = self.model.synthesize(self._embedding, prior=name, **settings), self.subjects
            layout = self.model.canonicalizer.layout
            of_prior[words] = drawn_obedience(self._judge, subjects.base, subjects.prompts, layout, vectors)
            self.report(f"{name} {words}: {of_prior[words]:.3f} of pictures show what was asked for")
        return of_prior[words]


def tune_by_weights(
    model: Synthesizer,
    vectors: Float[Tensor, "N P"],
    embedding: Float[Tensor, "N D"],
    *,
    report: Callable[[str], None] = print,
) -> Scores:
    """Choose each prior's settings, and the default prior, by the error of ΔW on validation LoRAs, and set them.

    Where there are pictures, choose by them (`TuningByPictures`): the error of weights likes smaller LoRAs than similarity does.

    Returns:
        The relative error of every setting tried.
    """

    def score(name: str, settings: dict[str, Any]) -> float:
        return -errors_of(model, vectors, model.synthesize(embedding, prior=name, **settings))["relative_error"]

    scores = choose_settings(model, WEIGHT_SCALES, score)
    choose_default(model, scores, report=report)
    return {name: {setting: -score for setting, score in each.items()} for name, each in scores.items()}
