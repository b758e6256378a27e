"""The critic of a run folder is of the photos and settings that are asked for, or it is refused."""

from dataclasses import replace

import pytest
import torch

from lorasynth.errors import CheckpointError
from lorasynth.pipeline.through_base import critic_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.recipes import get_recipe
from lorasynth.storage.files import read_tensors, write_tensors


@pytest.mark.slow
def test_critic_of_other_settings_or_photos_is_refused(tmp_path):
    recipe = get_recipe("portraits_tiny")
    work = Workspace(recipe=recipe, folder=tmp_path, report=lambda _: None)
    made = critic_stage(work).state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in critic_stage(work).state_dict().items())
    quieter = replace(recipe, refine=replace(recipe.refine, critic_noise=0.1))
    with pytest.raises(CheckpointError, match=r"expected settings .* remove the file to train another critic"):
        critic_stage(Workspace(recipe=quieter, folder=tmp_path, report=lambda _: None))
    path = tmp_path / "critic.safetensors"
    tensors, said = read_tensors(path)
    write_tensors(path, tensors, said | {"subjects": "others"})
    with pytest.raises(CheckpointError, match="expected subjects portraits, got others"):
        critic_stage(work)
    write_tensors(path, tensors)  # of before: it does not say
    critic_stage(work)
