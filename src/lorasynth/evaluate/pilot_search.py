"""Which settings a pilot tries, and which of them it chooses: one setting after the other, by an explicit rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from lorasynth.errors import LayoutError, UsageError
from lorasynth.zoo.settings import ZooSettings, rounded

TARGETS = "targets"
CLIMBS = {"learning_rate": (3.0, 6), "adam_epsilon": (30.0, 4), "steps": (2.0, 2), "rank": (2.0, 1)}
"""Setting -> the factor by which it is changed, and how many times it is changed one way at the most."""

FACTORS = ("learning_rate", TARGETS, "adam_epsilon", "steps", "rank")
"""All settings, in the order in which they are looked at."""


def require_factors(names: str) -> tuple[str, ...]:
    """Factors from text with commas between.

    Raises:
        UsageError: one of them is none.
    """
    factors = tuple(names.split(","))
    if unknown := [factor for factor in factors if factor not in FACTORS]:
        raise UsageError(f"expected --factors among {', '.join(FACTORS)}, got {unknown[0]!r}; name those")
    return factors


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings, and what came of them."""

    settings: ZooSettings
    figures: Mapping[str, Any]  # JSON values; "values" is one number a subject, or None where a training diverged

    @property
    def diverged(self) -> bool:
        """Whether a training ended in numbers that are none."""
        return self.figures["values"] is None

    @property
    def value(self) -> float:
        """The mean over subjects: what the choice goes by."""
        return -float("inf") if self.diverged else fmean(self.figures["values"])

    @property
    def is_positive(self) -> bool:
        """Whether the mean value is above 0 by two standard errors or more."""
        return not self.diverged and self.value > 2 * _standard_error(self.figures["values"])

    @property
    def cost(self) -> tuple[int, int]:
        """Steps, then numbers in a LoRA: what is cheaper to train, and then what is easier to learn."""
        return self.settings.steps, self.figures["parameters"]


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that a zoo should be built with.

    The rule. A subject's value is similarity gained over the base alone, times the cosine of its two trainings (at least 0).
    The best candidate has the largest mean value. Another one is as good if its mean is less by at most one standard error of
    the differences between the two, subject by subject (the one-standard-error rule of Breiman et al., 1984). Of those as good
    as the best, the one of the fewest steps is chosen, then of the fewest parameters, then of the largest value.
    """
    best = max(candidates, key=lambda candidate: candidate.value)
    good = [candidate for candidate in candidates if candidate is best or _as_good(candidate, best)]
    return min(good, key=lambda candidate: (*candidate.cost, -candidate.value))


def _as_good(candidate: Candidate, best: Candidate) -> bool:
    if candidate.diverged:
        return False
    differences = [b - a for a, b in zip(candidate.figures["values"], best.figures["values"], strict=True)]
    return fmean(differences) <= _standard_error(differences)


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5


def _goes_on(best: Candidate, found: Candidate) -> bool:
    """Whether to change a setting further: for a gain, at no loss and no more cost, and out of where nothing is learned."""
    if found.value > best.value or (found.cost <= best.cost and _as_good(found, best)):
        return True
    return not best.is_positive and found.diverged <= best.diverged


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search from a recipe's own settings."""

    run: Callable[
        [ZooSettings], Candidate
    ]  # measures or remembers, with LayoutError for what the base has no layers for
    sets: Mapping[str, Sequence[str]]  # name -> endings of module names
    report: Callable[[str], None] = print

    def __call__(self, start: ZooSettings, factors: Sequence[str] = FACTORS) -> list[Candidate]:
        """All candidates: the recipe's own settings first, then each factor from what is best so far.

        The learning rate that is right depends on Adam's epsilon, and is looked at again where another epsilon is chosen.

        Raises:
            LayoutError: the base has no LoRAs of the recipe's own settings.
        """
        tried = [self.run(start)]
        for factor in factors:
            before = choose(tried).settings
            self._look_at(factor, tried)
            moved = choose(tried).settings.adam_epsilon != before.adam_epsilon
            if factor == "adam_epsilon" and moved and "learning_rate" in factors:
                self._look_at("learning_rate", tried)
        return tried

    def _look_at(self, factor: str, tried: list[Candidate]) -> None:
        if factor == TARGETS:
            for targets in self.sets.values():
                self._try(replace(choose(tried).settings, targets=tuple(targets)), tried)
        else:
            self._climb(factor, tried)

    def _climb(self, factor: str, tried: list[Candidate]) -> None:
        """Change one setting up as long as that is no loss, and down where up was no gain.

        Epsilons below the size of gradients are all alike, and so are learning rates that are far too low. Neither stops it.
        """
        start = choose(tried)
        ratio, most = CLIMBS[factor]
        for by in (1 / ratio, ratio) if start.diverged else (ratio, 1 / ratio):
            at = best = start
            for _ in range(most):
                found = self._try(scaled(at.settings, factor, by), tried)
                if found is None or found is at or not _goes_on(best, found):
                    break
                at, best = found, max(best, found, key=lambda candidate: candidate.value)
            if best is not start:
                break

    def _try(self, settings: ZooSettings, tried: list[Candidate]) -> Candidate | None:
        """A candidate, which is kept; None where there are no LoRAs of such settings."""
        for candidate in tried:
            if candidate.settings == settings:
                return candidate
        try:
            tried.append(self.run(settings))
        except LayoutError as error:
            self.report(f"not tried: {error}")
            return None
        return tried[-1]


def scaled(settings: ZooSettings, factor: str, by: float) -> ZooSettings:
    """Settings with one of them changed. Whole numbers are at least 1."""
    value = getattr(settings, factor) * by
    changed: dict[str, Any] = {factor: max(1, round(value)) if factor in ("steps", "rank") else rounded(value)}
    return replace(settings, **changed)
