"""The method on styles instead of people: the same scenes, known by how they are drawn."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.tiny import tiny
from lorasynth.zoo.build import ZooConfig


def brushes() -> WorldRecipe:
    """A synthesizer of the brushes world."""
    return WorldRecipe(name="brushes", zoo=ZooConfig(world="brushes"))


def brushes_tiny() -> WorldRecipe:
    """The same path in a minute or two."""
    return tiny("brushes")
