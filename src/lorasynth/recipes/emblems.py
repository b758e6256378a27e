"""The method on objects instead of people: an emblem is known by its shape, colours and pattern."""

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def emblems() -> Recipe:
    """A synthesizer of the emblems world: a third of the portraits' zoo, and a short way end to end."""
    return small("emblems")


def emblems_tiny() -> Recipe:
    """The same path in a minute or two."""
    return tiny("emblems")
