"""Full configurations as Python functions."""

from importlib import import_module

from lorasynth.errors import UsageError
from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.imported import BASES
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
    "sd15_faces": "sd15_faces",
    "sd15_faces_small": "sd15_faces",
    "sdxl_faces": "sdxl_faces",
    **{f"{family}{size}": "photographs" for family in BASES for size in ("", "_tiny")},
}
"""Name -> the module here that it is in. The function is of the same name, or takes a family of `BASES`."""


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"expected a recipe among {sorted(RECIPES)}, got {name!r}")
    module = import_module(f"lorasynth.recipes.{RECIPES[name]}")
    family = name.removesuffix("_tiny")
    recipe: Recipe
    if family in BASES:
        recipe = (module.photographs if name == family else module.photographs_tiny)(family)
    else:
        recipe = getattr(module, name)()
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
