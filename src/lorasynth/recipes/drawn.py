"""What the recipes of drawn worlds have in common."""

from dataclasses import replace
from typing import Any

from lorasynth.pipeline.recipe import Recipe
from lorasynth.worlds.world import get_domain
from lorasynth.zoo.config import ZooConfig


def drawn(name: str, zoo: ZooConfig, **settings: Any) -> Recipe:
    """A recipe of the zoo's world.

    Args:
        name: of the recipe.
        zoo: how the zoo is built.
        **settings: fields of `Recipe`.
    """
    world = zoo.world
    # NOTE: `lorasynth experiment metric` has the reason. The older synthesizer of 64 pixels has entries, each tensor alike.
    return Recipe(
        name=name, family=world, base=world, picture_size=get_domain(world).picture_size, zoo=zoo,
        **{"metric": "updates", **settings},
    )  # fmt: skip


def as_measured(recipe: Recipe) -> Recipe:
    """The same with the drawing steps through which the shipped models were trained, and those that docs have figures of.

    Six give more likeness for the same time (`benchmarks/through_base.py`), as was found later.
    """
    last = recipe.end_to_end
    through = replace(last.through, drawing_steps=10)
    redraw = replace(recipe.redraw, drawing_steps=10)
    return replace(recipe, redraw=redraw, end_to_end=replace(last, through=through))
