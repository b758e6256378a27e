"""What a prompt asked for is recognised in pictures whose truth is known, and nowhere else."""

import pytest
import torch

from lorasynth.evaluate.fidelity import PromptFidelity
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


def test_smiles_and_frowns_of_drawn_portraits_are_read(fidelity):
    persons = list(range(300))
    truth = nuisance_factors(persons, [0] * 300)[:, NUISANCE.index("expression")]
    found = fidelity.expression(photos_of(persons, [0] * 300, 64))
    clear = (truth - 0.5).abs() > 1 / 6
    assert ((found > 0.5) == (truth > 0.5))[clear].float().mean() > 0.93
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.8


def test_only_what_a_prompt_asks_for_is_counted(fidelity):
    pictures = photos_of([1, 2], [0, 0], 64)[:, None].expand(-1, 2, -1, -1, -1)
    assert fidelity.obeyed(pictures, ["a photo of a person", "wearing a red shirt"]) == {}
    asked = fidelity.obeyed(pictures, ["smiling, on a blue background", "frowning"])
    assert set(asked) == {"background", "expression"}
    assert asked["expression"] == 0.5  # one face cannot do both
