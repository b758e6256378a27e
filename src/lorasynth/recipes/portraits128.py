"""The portraits world at 128 pixels: pictures in which glasses, freckles and moles are seen."""

from dataclasses import replace

from lorasynth.recipes.recipe import WorldRecipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def portraits128() -> WorldRecipe:
    """A synthesizer of the sharp portraits: a modest zoo, then straight on to end to end."""
    return small("portraits128")


def portraits128_gpu() -> WorldRecipe:
    """The same for a GPU: more LoRAs, and many people a step. Not tried on a GPU yet."""
    recipe = portraits128()
    through = recipe.end_to_end.through
    through = replace(through, people_a_step=256, loop=replace(through.loop, steps=500, validate_every=100))
    return replace(
        recipe,
        name="portraits128_gpu",
        zoo=replace(recipe.zoo, people=2_000, validation_people=128, bank=256),
        end_to_end=replace(recipe.end_to_end, through=through),
    )


def portraits128_tiny() -> WorldRecipe:
    """The same path in minutes."""
    return tiny("portraits128")
