"""The method on objects instead of people: an emblem is known by its shape, colours and pattern."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.tiny import tiny
from lorasynth.zoo.build import ZooConfig


def emblems() -> WorldRecipe:
    """A synthesizer of the emblems world."""
    return WorldRecipe(name="emblems", zoo=ZooConfig(world="emblems"))


def emblems_tiny() -> WorldRecipe:
    """The same path in a minute or two."""
    return tiny("emblems")
