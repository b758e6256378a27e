"""The method on styles instead of people: the same scenes, known by how they are drawn."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.tiny import tiny
from lorasynth.zoo.build import ZooConfig


def brushes() -> WorldRecipe:
    """A synthesizer of the brushes world: half the zoo of the portraits', and straight on to end to end."""
    return WorldRecipe(
        name="brushes", zoo=ZooConfig(world="brushes", people=1_000, validation_people=64), refined_apart=False
    )


def brushes_tiny() -> WorldRecipe:
    """The same path in a minute or two."""
    return tiny("brushes")
