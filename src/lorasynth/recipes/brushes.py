"""The method on styles instead of people: the same scenes, known by how they are drawn."""

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def brushes() -> Recipe:
    """A synthesizer of the brushes world: a third of the portraits' zoo, and a short way end to end."""
    return small("brushes")


def brushes_tiny() -> Recipe:
    """The same path in a minute or two."""
    return tiny("brushes")
