"""Full configurations as Python functions."""

from importlib import import_module

from lorasynth.errors import UsageError
from lorasynth.pipeline.recipe import Recipe
from lorasynth.zoo.config import ZooConfig

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
    "flux": "photographs",
    "flux_tiny": "photographs",
    "sd15": "photographs",
    "sd15_faces": "sd15_faces",
    "sd15_faces_small": "sd15_faces",
    "sd15_tiny": "photographs",
    "sd2": "photographs",
    "sd2_tiny": "photographs",
    "sd3": "photographs",
    "sd3_tiny": "photographs",
    "sdxl": "photographs",
    "sdxl_faces": "sdxl_faces",
    "sdxl_tiny": "photographs",
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


def get_zoo_config(name: str) -> ZooConfig:
    """How a recipe makes its zoo.

    Raises:
        UsageError: there is no recipe of that name, or its zoo is imported.
    """
    if (config := get_recipe(name).zoo) is None:
        raise UsageError(f"expected a recipe that makes a zoo, got {name!r}, whose zoo is imported (zoo import)")
    return config


__all__ = ["RECIPES", "Recipe", "get_recipe", "get_zoo_config"]
