"""A real zoo of 32 people, trained for a few steps, and its context."""

import pytest


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    from lorasynth.recipes import get_recipe
    from lorasynth.zoo.build import build_zoo

    recipe = get_recipe("portraits_tiny")
    return build_zoo(recipe.zoo, str(tmp_path_factory.mktemp("experiments") / "zoo"), report=lambda _: None)


@pytest.fixture(scope="session")
def context(zoo):
    from lorasynth.experiments.context import ExperimentContext
    from lorasynth.recipes import get_recipe

    return ExperimentContext.open(zoo, get_recipe("portraits_tiny"), people=2)
