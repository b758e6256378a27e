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
    from evidence.context import ExperimentContext
    from lorasynth.recipes import get_recipe

    return ExperimentContext.open(zoo, get_recipe("portraits_tiny"), people=2)


@pytest.fixture(scope="session")
def trained(zoo, tmp_path_factory):
    """A synthesizer of the zoo, for the experiments that ask for the world's."""
    from lorasynth.pipeline.stages import train_all
    from lorasynth.pipeline.workspace import SYNTHESIZER, Workspace
    from lorasynth.recipes import get_recipe
    from lorasynth.synthesizer import Synthesizer

    fit = tmp_path_factory.mktemp("experiments") / "fit"
    train_all(Workspace(recipe=get_recipe("portraits_tiny"), folder=fit, zoo_folder=zoo.folder, report=lambda _: None))
    return Synthesizer.from_pretrained(fit / SYNTHESIZER)
