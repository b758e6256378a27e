"""What a prompt asked for is recognised in pictures whose truth is known, and nowhere else."""

import pytest
import torch

from lorasynth.evaluate.fidelity import PromptFidelity
from lorasynth.worlds.portraits.captions import VIEWS, third
from lorasynth.worlds.portraits.draw import photos_of
from lorasynth.worlds.portraits.factors import NUISANCE, nuisance_factors
from lorasynth.worlds.portraits.palette import COLOUR_NAMES, colour_name


@pytest.fixture(scope="module")
def fidelity():
    return PromptFidelity.fit()


def test_backgrounds_of_drawn_portraits_are_read(fidelity):
    persons = list(range(120))
    pictures = photos_of(persons, [0] * 120, 64)
    names = [colour_name(row[NUISANCE.index("background")].item()) for row in nuisance_factors(persons, [0] * 120)]
    right = sum(bool(fidelity.background_obeyed(pictures[i : i + 1], names[i])) for i in range(120))
    wrong = sum(bool(fidelity.background_obeyed(pictures[i : i + 1], COLOUR_NAMES[0])) for i in range(120))
    assert right > 100
    assert wrong < 40


def test_views_of_drawn_portraits_are_read(fidelity):
    persons = list(range(300))
    pictures = photos_of(persons, [0] * 300, 64)
    yaw = nuisance_factors(persons, [0] * 300)[:, NUISANCE.index("yaw")].tolist()
    truth = torch.tensor([third(y) for y in yaw])
    found = torch.stack([fidelity.view_obeyed(pictures, view) for view in VIEWS]).int().argmax(0)
    assert (found == truth).float().mean() > 0.8


def test_only_what_a_prompt_asks_for_is_counted(fidelity):
    pictures = photos_of([1, 2], [0, 0], 64)[:, None].expand(-1, 2, -1, -1, -1)
    assert fidelity.obeyed(pictures, ["a photo of a person", "smiling"]) == {}
    asked = fidelity.obeyed(pictures, ["on a blue background", "facing left"])
    assert set(asked) == {"background", "view"}
