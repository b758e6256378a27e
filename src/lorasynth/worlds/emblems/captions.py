"""What a prompt says about an emblem: the words a base model learns and a picture is asked for with."""

from lorasynth.worlds.colours import COLOUR_NAMES, colour_name, hue_name
from lorasynth.worlds.domain import Factors
from lorasynth.worlds.emblems.factors import CHARGES, PATTERNS, PLACES, SHAPES
from lorasynth.worlds.words import one_of

SUBJECT = "sks emblem"
"""The rare token and class noun of the emblem a LoRA is about (DreamBooth's convention)."""

PLACE_WORDS = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def identity_words(f: Factors) -> list[str]:
    """What can be said of an emblem in words, each a phrase to follow "with"."""
    words = [f"a {one_of(SHAPES, f['shape'])} shape"]
    words.append(f"{hue_name(f['fill_hue'])} colour")
    words.append(f"{hue_name(f['accent_hue'])} {one_of(PATTERNS, f['pattern'])}")
    charge = one_of(CHARGES, f["charge"])
    if charge != "nothing":
        words.append(f"a small {charge}")
    words.append("a light rim" if f["rim_lightness"] > 0.6 else "a dark rim")
    return words


def photo_words(f: Factors) -> list[str]:
    """What can be said of a picture, whatever emblem is in it: background and place."""
    return [f"on a {colour_name(f['background'])} background", PLACE_WORDS[one_of(PLACES, f["place"])]]


_SAID = "a an picture of sks emblem with and , on in the background colour shape small light dark rim"
VOCABULARY = tuple(sorted({*_SAID.split(), *COLOUR_NAMES, *SHAPES, *PATTERNS, *CHARGES, *PLACES}))
"""Every word that a caption of this world can hold."""
