"""The method on styles instead of people: the same scenes, known by how they are drawn."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def brushes() -> WorldRecipe:
    """A synthesizer of the brushes world: a third of the portraits' zoo, and a short way end to end."""
    return small("brushes")


def brushes_tiny() -> WorldRecipe:
    """The same path in a minute or two."""
    return tiny("brushes")
