"""Every prior's settings, its scale first and then its sampler's, and which prior is the default: chosen by a score.

Where pictures are drawn, there is a second judge: whether they show what was asked for (`LESS_OBEDIENT`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lorasynth.errors import ModelError
from lorasynth.prior import DiffusionPrior, MeanPrior, holds_people
from lorasynth.synthesizer import Synthesizer

SAMPLERS = ((0.0, 1.0), (0.0, 1.5), (0.5, 1.0), (1.0, 1.0))  # temperature, guidance scale
SAMPLER_STEPS = 8
CLEARLY = 0.01
"""What another prior has to be better by, of likeness or of the error of ΔW, to be the default instead of the recipe's."""
LESS_OBEDIENT = 0.02
"""The rule: of the settings whose pictures show what was asked for about as often as nobody's, the most similar are chosen.

About as often: by at most this part of pictures less (see `tolerance`). Nobody is drawn at scale 0, where each LoRA is the zoo's
mean. A larger scale draws more of the person, and in the end nothing else. Where even small scales disobey, scale 1 takes the
place of scale 0.
"""

LESS_OF_FEW = 0.05
"""The most that `tolerance` allows."""

Settings = dict[str, Any]
"""Of `Synthesizer.synthesize`."""
Score = Callable[[str, Settings], float]
"""Of a prior, by name, with settings. Larger is better."""


def tolerance(subjects: int) -> float:
    """How much less often pictures of so many subjects may obey: by `LESS_OBEDIENT`, or by those of one subject, if that is more.

    Some prompts are seen on one picture of each subject. So with few subjects a single picture would decide. Of less than twenty
    subjects it does: more than one picture in twenty that shows something else is too much.
    """
    return max(LESS_OBEDIENT, min(1 / subjects + 1e-6, LESS_OF_FEW))


def choose_settings(
    model: Synthesizer,
    scales: Sequence[float],
    score: Score,
    obeyed: Score | None = None,
    names: Sequence[str] | None = None,
    less: float = LESS_OBEDIENT,
) -> dict[str, dict[str, float]]:
    """Try scales, then sampler settings at the chosen one, and set the best that obey on ``model``.

    Args:
        model: whose priors. The mean has nothing to choose: its canonical vector is zero at any scale. A diffusion prior keeps
            the sampler's steps that its settings say, if any.
        scales: to try.
        score: decides.
        obeyed: the part of pictures that show what was asked for; None where none are drawn. It is asked from the best score
            down, until settings obey.
        names: of the priors to choose for; all of them by default.
        less: how much less often than at scale 0 pictures may obey.

    Returns:
        The score of all that was tried, by prior and by the settings in words.

    Raises:
        ModelError: a score is not a finite number.
    """
    tried: dict[str, dict[str, float]] = {}

    def best_of(name: str, options: list[Settings], usual: Settings) -> Settings:
        known = tried.setdefault(name, {})
        for option in options:
            if (words := format_settings(option)) not in known:
                known[words] = score(name, option)
        scores = [known[format_settings(option)] for option in options]
        for option, got in zip(options, scores, strict=True):
            if not math.isfinite(got):
                raise ModelError(
                    f"{name}, {format_settings(option)}: expected a score that is a number, got {got}; weights of the prior "
                    "or of the encoder are damaged: train the prior again, or take another encoder"
                )
        return most_similar_that_obey(name, options, scores, usual, obeyed, less)

    for name in model.priors if names is None else names:
        prior = model.priors[name]
        if isinstance(prior, MeanPrior):
            continue
        diffusion = isinstance(prior, DiffusionPrior)
        steps = model.settings.get(name, {}).get("num_inference_steps", SAMPLER_STEPS)
        sampler = {"temperature": 0.0, "guidance_scale": 1.0, "num_inference_steps": steps} if diffusion else {}
        usual = {"scale": 1.0} | sampler
        best = best_of(name, [{"scale": s} | sampler for s in scales], usual)
        if diffusion:
            best = best_of(name, [best | {"temperature": t, "guidance_scale": g} for t, g in SAMPLERS], usual)
        model.settings[name] = best
    return tried


def most_similar_that_obey(
    name: str,
    options: Sequence[Settings],
    scores: Sequence[float],
    usual: Settings,
    obeyed: Score | None,
    less: float,
) -> Settings:
    """The rule of `LESS_OBEDIENT`. If no option obeys, the one that does so most often."""
    order = sorted(range(len(options)), key=lambda i: -scores[i])
    if obeyed is None:
        return options[order[0]]
    for reference in (usual | {"scale": 0.0}, usual):
        for i in order:
            if options[i] == reference or obeyed(name, options[i]) >= obeyed(name, reference) - less:
                return options[i]
    return max(options, key=lambda option: obeyed(name, option))


def choose_default(
    model: Synthesizer,
    tried: Mapping[str, Mapping[str, float]],
    obeyed: Score | None = None,
    less: float = LESS_OBEDIENT,
    *,
    report: Callable[[str], None] = print,
) -> None:
    """Make the prior with the best score the default, where it is clearly better than the one that is, and obeys as well.

    A prior that holds embeddings of the zoo's people (`holds_people`) is not taken: the default is what gets published.

    Args:
        model: whose default prior is the recipe's. Its settings are chosen.
        tried: what `choose_settings` returned.
        obeyed: as there.
        less: how much less often than the recipe's prior another one may obey.
        report: gets a line where the default changes.
    """
    best = {name: chosen_score(model, tried, name) for name in tried if not holds_people(model.priors[name])}
    usual = model.default_prior
    for winner in sorted(best, key=lambda name: -best[name]):
        if best[winner] <= best[usual] + CLEARLY:
            return
        if obeyed is not None and (
            obeyed(winner, model.settings[winner]) < obeyed(usual, model.settings[usual]) - less
        ):
            continue
        report(f"default prior: {winner} instead of {usual}, better by {best[winner] - best[usual]:.3f}")
        model.default_prior = winner
        return


def chosen_score(model: Synthesizer, tried: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The score of a prior with the settings that were chosen for it."""
    return tried[name][format_settings(model.settings[name])]


def format_settings(settings: Settings) -> str:
    """Settings as a line: ``scale=1.4 temperature=0``."""
    return " ".join(f"{key}={value:g}" for key, value in settings.items())
