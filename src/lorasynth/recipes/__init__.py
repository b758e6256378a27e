"""Full configurations as Python functions."""

from collections.abc import Callable

from lorasynth.errors import UsageError
from lorasynth.recipes.recipe import Recipe


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    from lorasynth.recipes.portraits import portraits, portraits_tiny

    recipes: dict[str, Callable[[], Recipe]] = {"portraits": portraits, "portraits_tiny": portraits_tiny}
    if name not in recipes:
        raise UsageError(f"expected a recipe among {sorted(recipes)}, got {name!r}")
    return recipes[name]()


__all__ = ["Recipe", "get_recipe"]
