"""The method on objects instead of people: an emblem is known by its shape, colours and pattern."""

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.tiny import tiny
from lorasynth.zoo.build import ZooConfig


def emblems() -> WorldRecipe:
    """A synthesizer of the emblems world: half the zoo of the portraits', and straight on to end to end."""
    return WorldRecipe(
        name="emblems", zoo=ZooConfig(world="emblems", people=1_000, validation_people=64), refined_apart=False
    )


def emblems_tiny() -> WorldRecipe:
    """The same path in a minute or two."""
    return tiny("emblems")
