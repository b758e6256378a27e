"""The portraits world at 128 pixels: pictures in which glasses, freckles and moles are seen."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def portraits128() -> WorldRecipe:
    """A synthesizer of the sharp portraits: a modest zoo, then straight on to end to end."""
    return small("portraits128")


def portraits128_tiny() -> WorldRecipe:
    """The same path in minutes."""
    return tiny("portraits128")
