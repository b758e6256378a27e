"""The yardstick is trained once and then found again, for the same people and settings only."""

from dataclasses import replace

import pytest
import torch

from lorasynth.evaluate.fine_tuned import fine_tuned_vectors
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.world import get_world
from lorasynth.zoo.adapt import AdaptConfig


@pytest.mark.integration
def test_fine_tuned_loras_are_kept_for_same_people_and_settings(tmp_path):
    world, config = get_world("portraits"), AdaptConfig(steps=2, batch_size=2, lora_A="each")
    layout = world.base.layout(1)

    def tuned(persons, config=config):
        return fine_tuned_vectors(
            DrawnSubjects(world), layout, persons, config, 2, cache=tmp_path, report=lambda _: None
        )

    first = tuned([1, 2])
    (file,) = tmp_path.iterdir()
    assert torch.equal(tuned([1, 2]), first)
    assert len(list(tmp_path.iterdir())) == 1
    # What is in the file is what comes out; other people and settings are trained.
    write_tensors(file, {"vectors": read_tensors(file)[0]["vectors"] + 1})
    assert torch.equal(tuned([1, 2]), first + 1)
    assert not torch.equal(tuned([1, 3]), first)
    assert not torch.equal(tuned([1, 2], replace(config, steps=3)), first)
    assert len(list(tmp_path.iterdir())) == 3
