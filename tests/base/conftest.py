"""Each family as a base, around tiny random weights."""

import pytest

from ..tiny_pipelines import FAMILIES, SIZE, pipeline


@pytest.fixture(scope="package")
def bases():
    """Function from a family to its tiny base, made once."""
    from lorasynth.base.opening import as_base

    made = {}

    def base(family):
        if family not in made:
            made[family] = as_base(pipeline(family), f"tiny-{family}", SIZE)
        return made[family]

    return base


@pytest.fixture(params=FAMILIES)
def base(request, bases):
    """One of each family."""
    return bases(request.param)
