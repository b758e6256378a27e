"""Every prior's settings, its scale first and then its sampler's, and which prior is the default: chosen by a score."""

from collections.abc import Callable, Sequence
from typing import Any

from lorasynth.prior import DiffusionPrior, MeanPrior, holds_people
from lorasynth.synthesizer import Synthesizer

SAMPLERS = ((0.0, 1.0), (0.0, 1.5), (0.5, 1.0), (1.0, 1.0))  # temperature, guidance scale
SAMPLER_STEPS = 8
CLEARLY = 0.01
"""What another prior has to be better by, of likeness or of the error of ΔW, to be the default instead of the recipe's."""


def choose_settings(
    model: Synthesizer, scales: Sequence[float], score: Callable[[str, dict[str, Any]], float]
) -> dict[str, dict[str, float]]:
    """Try scales, then sampler settings at the best of them, and set the best on ``model``.

    Args:
        model: whose priors. The mean has nothing to choose: its canonical vector is zero at any scale.
        scales: to try.
        score: of a prior, by name, with settings of `Synthesizer.synthesize`. Larger is better.

    Returns:
        The score of all that was tried, by prior and by the settings in words.
    """
    tried: dict[str, dict[str, float]] = {}

    def best_of(name: str, options: list[dict[str, Any]]) -> dict[str, Any]:
        scores = [score(name, option) for option in options]
        tried.setdefault(name, {}).update(zip(map(format_settings, options), scores, strict=True))
        return options[max(range(len(options)), key=scores.__getitem__)]

    for name, prior in model.priors.items():
        if isinstance(prior, MeanPrior):
            continue
        diffusion = isinstance(prior, DiffusionPrior)
        sampler = {"temperature": 0.0, "guidance_scale": 1.0, "num_inference_steps": SAMPLER_STEPS}
        best = best_of(name, [{"scale": s} | (sampler if diffusion else {}) for s in scales])
        if diffusion:
            best = best_of(name, [best | {"temperature": t, "guidance_scale": g} for t, g in SAMPLERS])
        model.settings[name] = best
    return tried


def choose_default(
    model: Synthesizer, tried: dict[str, dict[str, float]], *, report: Callable[[str], None] = print
) -> None:
    """Make the prior with the best score the default, where it is clearly better than the one that is.

    A prior that holds embeddings of the zoo's people (`holds_people`) is not taken: the default is what gets published.

    Args:
        model: whose default prior is the recipe's.
        tried: what `choose_settings` returned.
        report: gets a line where the default changes.
    """
    best = {name: max(scores.values()) for name, scores in tried.items() if not holds_people(model.priors[name])}
    winner, usual = max(best, key=best.__getitem__), model.default_prior
    if best[winner] > best[usual] + CLEARLY:
        report(f"default prior: {winner} ({best[winner]:.3f}) instead of {usual} ({best[usual]:.3f})")
        model.default_prior = winner


def format_settings(settings: dict[str, Any]) -> str:
    """Settings as a line: ``scale=1.4 temperature=0``."""
    return " ".join(f"{key}={value:g}" for key, value in settings.items())
