"""What a prompt says about a scene and its style: the words a base model learns and a picture is asked for with."""

from lorasynth.worlds.brushes.factors import SKIES, THINGS
from lorasynth.worlds.colours import COLOUR_NAMES, hue_name
from lorasynth.worlds.domain import Factors
from lorasynth.worlds.words import one_of

SUBJECT = "sks style"
"""The rare token and class noun of the style a LoRA is about (DreamBooth's convention)."""

WHERE = {"left": "on the left", "right": "on the right", "sky": "above"}


def identity_words(f: Factors) -> list[str]:
    """What can be said of a style in words, each a phrase to follow "with"."""
    words = [f"{hue_name(f['hue'])} colours"]
    words.append(one_of(("gray", "soft", "bright"), f["saturation"]) + " paint")
    if f["line_strength"] > 0.35:
        words.append(one_of(("thin", "", "thick"), f["line_width"]) + f" {hue_name(f['line_hue'])} lines")
    words += [noun for noun, present in (
        ("hatching", f["hatching"] > 0.6),
        ("wobble", f["wobble"] > 0.6),
        ("blur", f["blur"] > 0.6),
        ("grain", f["grain"] > 0.6),
        ("dark paper", f["paper_lightness"] < 0.3),
    ) if present]  # fmt: skip
    return [" ".join(phrase.split()) for phrase in words]


def photo_words(f: Factors) -> list[str]:
    """What can be said of a scene, whatever its style: what is where."""
    shown = {"left": one_of(THINGS, f["left"]), "right": one_of(THINGS, f["right"]), "sky": one_of(SKIES, f["sky"])}
    return [f"a {what} {WHERE[place]}" for place, what in shown.items()]


_SAID = (
    "a an picture in of sks style with and , on the left right above colours soft bright paint thin thick lines hatching "
    "wobble blur grain dark paper"
)
VOCABULARY = tuple(sorted({*_SAID.split(), *COLOUR_NAMES, *THINGS, *SKIES}))
"""Every word that a caption of this world can hold."""
