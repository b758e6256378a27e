"""Full configurations as Python functions."""

from importlib import import_module

from lorasynth.errors import UsageError
from lorasynth.recipes.recipe import BaseRecipe, Recipe, WorldRecipe

RECIPES = {
    "brushes": "brushes",
    "brushes_tiny": "brushes",
    "emblems": "emblems",
    "emblems_tiny": "emblems",
    "imported": "imported",
    "portraits": "portraits",
    "portraits_64k": "portraits",
    "portraits_tiny": "portraits",
    "portraits128": "portraits128",
    "portraits128_gpu": "portraits128",
    "portraits128_tiny": "portraits128",
    "sd15_faces": "sd15_faces",
    "sd15_faces_small": "sd15_faces",
    "sdxl_faces": "sdxl_faces",
}
"""Name, which is its function's too -> the module here that it is in."""


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"expected a recipe among {sorted(RECIPES)}, got {name!r}")
    recipe: Recipe = getattr(import_module(f"lorasynth.recipes.{RECIPES[name]}"), name)()
    return recipe


def get_world_recipe(name: str) -> WorldRecipe:
    """A drawn world's recipe by name, for what can only be done where pictures can be drawn.

    Raises:
        UsageError: there is none of that name, or it is of a real base.
    """
    recipe = get_recipe(name)
    if not isinstance(recipe, WorldRecipe):
        raise UsageError(
            f"expected the recipe of a drawn world, got {name!r}, of a real base; its zoo is imported (zoo import), and its "
            "stages are vae, prior and all"
        )
    return recipe


__all__ = ["RECIPES", "BaseRecipe", "Recipe", "WorldRecipe", "get_recipe", "get_world_recipe"]
