"""What a prompt says about a portrait: the words a base model learns and a picture is asked for with."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.portraits.palette import COLOUR_NAMES, colour_name

SUBJECT = "sks person"
"""The rare token and class noun of the person a LoRA is about (DreamBooth's convention)."""

EXPRESSIONS = ("frowning", "serious", "smiling")


def third(factor: float) -> int:
    """Which third of [0, 1] a factor lies in: 0, 1 or 2; values outside count as the nearest."""
    return min(max(int(factor * 3), 0), 2)


def identity_words(identity: Float[Tensor, " identity"]) -> list[str]:
    """What can be said of a person in words, each a phrase to follow "with"."""
    f = dict(zip(IDENTITY, identity.tolist(), strict=True))
    colour = ("black", "brown", "blond")[third(f["hair_lightness"])]
    length = "long" if f["hair_length"] > 0.6 else "short" if f["hair_length"] < 0.3 else ""
    curly = "curly" if f["hair_curl"] > 0.65 else ""
    words = [" ".join(word for word in (length, curly, colour, "hair") if word)]
    words.append(("light", "tan", "dark")[third(f["skin_tone"])] + " skin")
    words.append(("brown", "hazel", "green", "blue", "gray")[min(round(f["eye_colour"] * 4), 4)] + " eyes")
    words += [noun for noun, present in (
        ("glasses", f["glasses"] > 0.66),
        ("a beard", f["beard"] > 0.6),
        ("a moustache", f["moustache"] > 0.62),
        ("freckles", f["freckles"] > 0.72),
        ("a mole", f["mole"] > 0.55),
    ) if present]  # fmt: skip
    return words


def photo_words(nuisance: Float[Tensor, " nuisance"]) -> list[str]:
    """What can be said of a photo whoever is in it: expression, background, clothes."""
    f = dict(zip(NUISANCE, nuisance.tolist(), strict=True))
    return [
        EXPRESSIONS[third(f["expression"])],
        f"on a {colour_name(f['background'])} background",
        f"wearing a {colour_name(f['shirt'])} shirt",
    ]


def subject_caption(nuisance: Float[Tensor, " nuisance"]) -> str:
    """The caption of a training photo of a LoRA: the subject, and what is not the subject."""
    return ", ".join([f"a photo of {SUBJECT}", *photo_words(nuisance)])


def base_caption(
    identity: Float[Tensor, " identity"], nuisance: Float[Tensor, " nuisance"], generator: torch.Generator
) -> str:
    """A caption for the base model: phrases left out at random, so that any part of it can be asked for alone.

    One caption in ten is empty (for classifier-free guidance, Ho & Salimans 2022); half say `SUBJECT`, which therefore means
    nobody in particular until a LoRA gives it a meaning.
    """
    if torch.rand((), generator=generator) < 0.1:
        return ""
    subject = SUBJECT if torch.rand((), generator=generator) < 0.5 else "person"
    who = [w for w in identity_words(identity) if torch.rand((), generator=generator) < 0.4]
    how = [w for w in photo_words(nuisance) if torch.rand((), generator=generator) < 0.8]
    head = f"a photo of {subject}" if subject == SUBJECT else f"a photo of a {subject}"
    return ", ".join([head + (" with " + " and ".join(who) if who else ""), *how])


def vocabulary() -> list[str]:
    """Every word that a caption of this world can hold."""
    text = (
        "a photo of person sks with and , on background wearing shirt long short curly black brown blond hair light tan "
        "dark skin hazel eyes glasses beard moustache freckles mole portrait picture man woman an in"
    )
    return sorted({*text.split(), *COLOUR_NAMES, *EXPRESSIONS})
