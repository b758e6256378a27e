"""What a prompt asked for is recognised in pictures whose truth is known, and nowhere else."""

import pytest
import torch

from lorasynth.worlds.colours import COLOUR_NAMES, colour_name
from lorasynth.worlds.portraits.domain import DOMAIN
from lorasynth.worlds.portraits.probe import PortraitProbe
from lorasynth.worlds.probes import background_obeyed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def probe():
    return PortraitProbe.fit()


def test_backgrounds_of_drawn_portraits_are_read():
    persons = list(range(120))
    pictures = DOMAIN.photos(persons, [0] * 120, 64)
    names = [
        colour_name(row[DOMAIN.nuisance.index("background")].item())
        for row in DOMAIN.nuisance_factors(persons, [0] * 120)
    ]
    right = sum(bool(background_obeyed(pictures[i : i + 1], names[i])) for i in range(120))
    wrong = sum(bool(background_obeyed(pictures[i : i + 1], COLOUR_NAMES[0])) for i in range(120))
    assert right > 100
    assert wrong < 40


def test_smiles_and_frowns_of_drawn_portraits_are_read(probe):
    persons = list(range(300))
    truth = DOMAIN.nuisance_factors(persons, [0] * 300)[:, DOMAIN.nuisance.index("expression")]
    found = probe.expression(DOMAIN.photos(persons, [0] * 300, 64))
    clear = (truth - 0.5).abs() > 1 / 6
    assert ((found > 0.5) == (truth > 0.5))[clear].float().mean() > 0.93
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.8


def test_only_what_a_prompt_asks_for_is_counted(probe):
    pictures = DOMAIN.photos([1, 2], [0, 0], 64)[:, None].expand(-1, 2, -1, -1, -1)
    assert probe.obeyed(pictures, ["a photo of a person", "wearing a red shirt"]) == {}
    asked = probe.obeyed(pictures, ["smiling, on a blue background", "frowning"])
    assert set(asked) == {"background", "expression"}
    assert asked["expression"] == 0.5  # one face cannot do both


@pytest.mark.parametrize("size", [64, 128])
def test_turned_faces_of_drawn_portraits_are_read(probe, size):
    persons = list(range(200))
    truth = DOMAIN.nuisance_factors(persons, [0] * 200)[:, DOMAIN.nuisance.index("yaw")]
    found = probe.turn(DOMAIN.photos(persons, [0] * 200, size))
    clear = (truth < 0.3) | (truth > 0.7)
    assert ((found > 0.5) == (truth > 0.5))[clear].float().mean() > 0.97


def test_face_cannot_look_both_ways(probe):
    pictures = DOMAIN.photos([1, 2, 3], [0, 0, 0], 64)[:, None].expand(-1, 2, -1, -1, -1)
    assert probe.obeyed(pictures, ["looking left", "looking right"]) == {"turned": 0.5}
