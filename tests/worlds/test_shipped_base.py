"""The shipped base models draw what their prompts ask for."""

import pytest
import torch

from lorasynth.base import render
from lorasynth.worlds.portraits.probe import PortraitProbe
from lorasynth.worlds.world import get_world

pytestmark = pytest.mark.integration
STARTS = 16


@pytest.fixture(scope="module", params=["portraits", "portraits128"])
def drawn(request):
    """(prompt) -> pictures from the same starts of noise, by the base model alone."""
    world = get_world(request.param)
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
def test_faces_of_large_pictures_look_where_they_are_told():
    world = get_world("portraits128")
    layout, probe = world.base.layout(1), PortraitProbe.fit()
    prompts = [f"a photo of a person, looking {side}" for side in ("left", "right")]
    pictures = render(world.base, prompts * STARTS, layout, torch.zeros(1, layout.num_parameters))
    assert pictures.shape[-2:] == (128, 128)
    assert probe.obeyed(pictures, prompts * STARTS)["turned"] > 0.8


@pytest.mark.slow
def test_backgrounds_are_obeyed(drawn):
    fidelity = PortraitProbe.fit()
    for colour in ("blue", "green", "yellow"):
        obeyed = fidelity.obeyed(
            drawn(f"a photo of a person, on a {colour} background"), [f"on a {colour} background"] * STARTS
        )
        assert obeyed["background"] > 0.8
