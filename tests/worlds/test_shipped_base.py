"""The shipped base model draws what its prompts ask for."""

import pytest
import torch

from lorasynth.base import render
from lorasynth.worlds.portraits.probe import PortraitProbe
from lorasynth.worlds.world import get_world

pytestmark = pytest.mark.integration
STARTS = 16


@pytest.fixture(scope="module")
def drawn():
    """(prompt) -> pictures from the same starts of noise, by the base model alone."""
    world = get_world("portraits")
    layout = world.base.layout(1)
    nobody = torch.zeros(1, layout.num_parameters)
    return lambda prompt: render(world.base, [prompt] * STARTS, layout, nobody)


@pytest.mark.slow
def test_smiles_and_frowns_are_obeyed(drawn):
    fidelity = PortraitProbe.fit()
    smile, frown = (fidelity.expression(drawn(f"a photo of a person, {word}")[0]) for word in ("smiling", "frowning"))
    assert (smile > 0.5).float().mean() > 0.8
    assert (frown < 0.5).float().mean() > 0.7
    assert (smile > frown).float().mean() > 0.85


@pytest.mark.slow
def test_backgrounds_are_obeyed(drawn):
    fidelity = PortraitProbe.fit()
    for colour in ("blue", "green", "yellow"):
        obeyed = fidelity.obeyed(
            drawn(f"a photo of a person, on a {colour} background"), [f"on a {colour} background"] * STARTS
        )
        assert obeyed["background"] > 0.8
