"""The whole path of a drawn world in two or three hours: enough to tell whether the method holds there."""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.drawn import as_measured, drawn
from lorasynth.refining import EndToEndConfig
from lorasynth.zoo.config import ZooConfig


def small(world: str) -> Recipe:
    """The recipe ``WORLD``: a zoo of 600, and from the priors straight on to end to end."""
    through = EndToEndConfig().through
    through = replace(through, loop=replace(through.loop, steps=1_500))
    recipe = drawn(
        world,
        ZooConfig(world=world, people=600, validation_people=64),
        end_to_end=EndToEndConfig(through=through),
        refined_apart=False,
    )
    return as_measured(recipe)
