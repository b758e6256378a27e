"""Each family of base models has its recipes, and the command line's help and the pages name it."""

from pathlib import Path

import pytest

from lorasynth.cli.common import RecipeName
from lorasynth.recipes import RECIPES, get_recipe
from lorasynth.recipes.imported import BASES

from ..tiny_pipelines import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


def test_families_with_recipes_are_those_with_a_tiny_pipeline():
    assert BASES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_recipes_and_is_named_to_users(family):
    assert {family, f"{family}_tiny"} <= RECIPES.keys()
    assert (get_recipe(family).family, get_recipe(f"{family}_tiny").family) == (family, family)
    assert f" {family}," in RecipeName.__metadata__[0].help.replace(" (", ", (")
    for page in ("your-pictures.md", "reference/real-bases.md"):
        assert f"`{family}`" in (DOCS / page).read_text(), page
