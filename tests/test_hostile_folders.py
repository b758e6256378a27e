"""A folder of a model, a zoo or a run may say anything: the answer is one of the project's errors, in little memory and time."""

import shutil

import pytest
import torch

from lorasynth.errors import CheckpointError, LorasynthError, ModelError, UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.model_folder import read_synthesizer
from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
from lorasynth.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lorasynth.zoo.store import Zoo

from .hostile import in_little_memory, unruly
from .making import real_synthesizer, sd15_layout

pytestmark = pytest.mark.slow

ENCODER = {
    "kind": "face",
    "name": "x",
    "dim": 32,
    "files": {"recogniser": "0" * 64},
    "input": {"size": 112},
    "licence": "x",
}


def no_surprise(use, folder, names, allowed, at_least):
    def run():
        found, tried = unruly(use, folder, names, allowed)
        return [*found, *([f"only {tried} were tried"] if tried < at_least else [])]

    found = in_little_memory(run)
    assert not found, f"{len(found)} end otherwise:\n" + "\n".join(found[:40])


def test_hostile_model_folder_ends_in_a_model_error(tmp_path):
    folder = tmp_path / "model"
    real_synthesizer(ENCODER).save_pretrained(folder)
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]

    def use():
        model = Synthesizer.from_pretrained(folder)
        assert model.from_embedding(torch.ones(32), temperature=0.0).vector.isfinite().all()
        for name in model.priors:
            model.from_embedding(torch.ones(32), prior=name)

    no_surprise(use, folder, names, (ModelError, UsageError), at_least=1_500)


def test_hostile_guard_ends_in_a_model_error(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in DEFAULT_MODEL.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"nearest": "baseline",', "").replace('"nearest"', '"mean"', 0)
    )
    shutil.copytree(DEFAULT_MODEL / "priors", folder / "priors")
    no_surprise(lambda: read_synthesizer(folder, None), folder, ["guard.safetensors"], (ModelError, UsageError), 50)


def test_hostile_zoo_ends_in_a_zoo_error(tmp_path):
    layout = sd15_layout()
    zoo = Zoo.create(tmp_path / "zoo", layout, {"a": 1}, LoRA.random(layout).vector)
    vectors = torch.randn(2, layout.num_parameters)
    zoo.append("shard-0", [1, 2], ["train", "train"], vectors, torch.randn(2, 1, 8), "here", "CC0")

    def use():
        opened = Zoo.open(zoo.folder)
        opened.verify()
        opened.init()
        opened.load()

    allowed = (ZooError, ModelError, UsageError, LorasynthError)
    no_surprise(
        use, zoo.folder, ["zoo.json", "manifest.jsonl", "init.safetensors", "shard-0.safetensors"], allowed, 300
    )


def test_hostile_checkpoint_ends_in_a_checkpoint_error(tmp_path):
    run = tmp_path / "run"
    save_checkpoint(run, Checkpoint(step=3, tensors={"w": torch.ones(3)}, config={"a": 1}, numbers={"b": [1.5]}))
    folder = run / "checkpoint-00000003"
    names = ["checkpoint.json", "state.safetensors"]
    no_surprise(lambda: load_checkpoint(run, {"a": 1}, clean=False), folder, names, (CheckpointError,), 150)
