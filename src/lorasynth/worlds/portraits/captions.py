"""What a prompt says about a portrait: the words a base model learns and a picture is asked for with."""

from lorasynth.worlds.colours import COLOUR_NAMES, colour_name
from lorasynth.worlds.domain import Factors
from lorasynth.worlds.words import one_of

SUBJECT = "sks person"
"""The rare token and class noun of the person a LoRA is about (DreamBooth's convention)."""

LOOKING = ("looking left", "looking right")
EXPRESSIONS = ("frowning", "serious", "smiling")


def identity_words(f: Factors) -> list[str]:
    """What can be said of a person in words, each a phrase to follow "with"."""
    colour = one_of(("black", "brown", "blond"), f["hair_lightness"])
    length = "long" if f["hair_length"] > 0.6 else "short" if f["hair_length"] < 0.3 else ""
    curly = "curly" if f["hair_curl"] > 0.65 else ""
    words = [" ".join(word for word in (length, curly, colour, "hair") if word)]
    words.append(one_of(("light", "tan", "dark"), f["skin_tone"]) + " skin")
    words.append(("brown", "hazel", "green", "blue", "gray")[min(round(f["eye_colour"] * 4), 4)] + " eyes")
    words += [noun for noun, present in (
        ("glasses", f["glasses"] > 0.66),
        ("a beard", f["beard"] > 0.6),
        ("a moustache", f["moustache"] > 0.62),
        ("freckles", f["freckles"] > 0.72),
        ("a mole", f["mole"] > 0.55),
    ) if present]  # fmt: skip
    return words


def photo_words(f: Factors) -> list[str]:
    """What can be said of a photo whoever is in it: expression, background, clothes."""
    return [
        one_of(EXPRESSIONS, f["expression"]),
        f"on a {colour_name(f['background'])} background",
        f"wearing a {colour_name(f['shirt'])} shirt",
    ]


def turned_words(f: Factors) -> list[str]:
    """Where a face is turned, as seen in the picture. Nothing of one that looks ahead."""
    return [LOOKING[0]] if f["yaw"] < 0.3 else [LOOKING[1]] if f["yaw"] > 0.7 else []


_SAID = (
    "a photo of person sks with and , on background wearing shirt long short curly black brown blond hair light tan "
    "dark skin hazel eyes glasses beard moustache freckles mole portrait picture man woman an in"
)
VOCABULARY = tuple(sorted({*_SAID.split(" "), *COLOUR_NAMES, *EXPRESSIONS}))
"""Every word that a caption of this world can hold."""
