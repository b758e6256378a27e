"""Does a zoo teach anything, and does a synthesizer do anything? One plain sentence where not, with what to do instead.

LoRAs that were trained each from an initialisation of its own teach nothing. Ridge regression explains none of held-out ΔW in
any gauge. It explains 0.2 where all began from one lora_A (docs/results/evidence.md, *initialisation*).
"""

from collections.abc import Mapping
from typing import Any

OF_PILOT_ALONE = (
    "this zoo holds the LoRAs of its pilot alone: they give the VAE its directions, their weights explain next to nothing, and "
    "training end to end on photographs teaches all else"
)
"""What is to be said of a zoo that was built with --subjects 0, whatever its LoRAs explain."""
EXPLAINED = 0.05
"""Part of validation LoRAs' deviation from the zoo's mean below which nothing was learned."""
SIZE = 0.2
"""Size of synthesised LoRAs, beside the zoo's, below which they do next to nothing."""
GAIN = 0.01
"""Similarity of pictures that LoRAs have to add to the base's own, below which nothing was learned."""
INSTEAD = (
    "LoRAs that were trained each from an initialisation of its own teach nothing: train them all from one shared "
    "initialisation. Those of `zoo build` share one: give more people or --steps "
    "(docs/reference/real-bases.md#a-zoo-that-teaches-nothing)"
)


def shortcoming(errors: Any) -> str:
    """What is to be said of a model by the errors of its priors. Empty where they are good enough, or say nothing.

    Args:
        errors: `lorasynth.evaluate.weights.errors_of` of each prior, by name, with the settings chosen.
    """
    values = [value for value in errors.values() if isinstance(value, Mapping)] if isinstance(errors, Mapping) else []
    explained = [value["explained"] for value in values if isinstance(value.get("explained"), float)]
    if not explained or max(explained) >= EXPLAINED:
        return ""
    sizes = [value["size"] for value in values if isinstance(value.get("size"), float)]
    little = ""
    if sizes and max(sizes) < SIZE:
        little = (
            f", and its LoRAs are at most {max(sizes):.2f} times as large as the zoo's, so that they do next to nothing"
        )
    return (
        f"this zoo taught nothing: the best prior explains {max(0.0, *explained):.2f} of what sets validation people's LoRAs "
        f"apart{little}. {INSTEAD}"
    )


def shortcoming_of_pictures(similarity: Any) -> str:
    """The same by pictures of validation people. Their similarity is "base" without a LoRA, and at "best" with one."""
    if not isinstance(similarity, Mapping):
        return ""
    base, best = similarity.get("base"), similarity.get("best")
    if not isinstance(base, float) or not isinstance(best, float) or best >= base + GAIN:
        return ""
    return (
        f"nothing was learned: pictures with its LoRAs are as unlike validation people as those without (similarity {best:.3f} "
        f"and {base:.3f}). Give more people, photos or steps, or look for the base's settings with `zoo pilot` "
        "(docs/your-pictures.md)"
    )


def shortcoming_of_model(made_from: Any) -> str:
    """The same by a model's record of its making. Pictures tell where some were drawn, and weights elsewhere.

    A LoRA that was trained through the base draws a person without being near the zoo's LoRAs.
    """
    if not isinstance(made_from, Mapping):
        return ""
    if "similarity" in made_from:
        return shortcoming_of_pictures(made_from["similarity"])
    return shortcoming(made_from.get("validation"))


def shortcoming_of_latents(metrics: Any) -> str:
    """The same by what `fit_prior_stage` measures: the part of held latents' variance that is explained."""
    values = [value for value in metrics.values() if isinstance(value, Mapping)]
    explained = [
        v for value in values for key in ("explained", "ridge_explained") if isinstance(v := value.get(key), float)
    ]
    if not explained or max(explained) >= EXPLAINED:
        return ""
    return (
        f"this zoo taught nothing: at most {max(0.0, *explained):.2f} of the variance of validation people's latents is "
        f"explained. {INSTEAD}"
    )
