"""The portraits world at 128 pixels: pictures in which glasses, freckles and moles are seen."""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.small import small
from lorasynth.recipes.tiny import tiny


def portraits128() -> Recipe:
    """The shipped synthesizer of the sharp portraits: a modest zoo, then straight on to end to end.

    Its critic learns for longer than others and weighs twice as much, which moves similarity most (`benchmarks/through_base.py`).
    It is held to the one photo whose caption is asked for: faces turn as often at a larger scale. More weight costs poses
    (dev/LOG.md, 2026-11-30).
    """
    recipe = small("portraits128")
    assert recipe.zoo is not None
    through = replace(recipe.end_to_end.through, drawing_steps=4, identity_weight=2.0, critic_photos=1)
    return replace(
        recipe,
        zoo=replace(recipe.zoo, people=416, validation_people=56),
        refine=replace(recipe.refine, critic=replace(recipe.refine.critic, steps=3_000)),
        end_to_end=replace(recipe.end_to_end, through=through),
        tune_people=56,  # whether faces turn as asked is seen on one picture of each
    ).with_end_to_end_steps(12_800)


def portraits128_gpu() -> Recipe:
    """The same for a GPU: more LoRAs, and many people a step. Not tried on a GPU yet."""
    recipe = portraits128()
    assert recipe.zoo is not None
    through = recipe.end_to_end.through
    through = replace(
        through, people_a_step=256, drawing_steps=6, loop=replace(through.loop, steps=500, validate_every=100)
    )
    return replace(
        recipe,
        name="portraits128_gpu",
        zoo=replace(recipe.zoo, people=2_000, validation_people=128, bank=256),
        end_to_end=replace(recipe.end_to_end, through=through),
    )


def portraits128_tiny() -> Recipe:
    """The same path in minutes."""
    return tiny("portraits128")
