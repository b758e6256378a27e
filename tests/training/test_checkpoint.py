"""Checkpoints that are cut off, bent, old, foreign or in use."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from lorasynth.errors import CheckpointError, ModelError
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.storage.files import write_tensors
from lorasynth.storage.settings import config_difference, config_record
from lorasynth.training import LoopConfig
from lorasynth.training.checkpoint import (
    SCHEMA,
    Checkpoint,
    load_checkpoint,
    run_lock,
    save_checkpoint,
)

CONFIG = {"width": 8, "loop": {"steps": 100, "seed": 0}}


def checkpoint(step):
    tensors = {"model.w": torch.full((3, 2), float(step)) / 3, "optimizer.w.step": torch.tensor(float(step))}
    return Checkpoint(
        step=step, tensors=tensors, config=CONFIG, numbers={"best_loss": None, "history": [{"step": 1.0}]}
    )


@pytest.fixture
def run(tmp_path):
    """A run's folder with the checkpoints of steps 10 and 20."""
    for step in (10, 20):
        save_checkpoint(tmp_path, checkpoint(step))
    return tmp_path


def names(run):
    return sorted(p.name for p in run.iterdir() if p.is_dir())


def change_record(folder, change):
    """Have another record in a checkpoint, as it would be written: with the right hash."""
    path = folder / "checkpoint.json"
    record = change(json.loads(path.read_text()))
    record.pop("record_sha256")
    sha256 = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**record, "record_sha256": sha256}, indent=2) + "\n")


def test_newest_comes_back_to_the_last_bit(run):
    again = load_checkpoint(run, CONFIG)
    written = checkpoint(20)
    assert (again.step, again.config, again.numbers) == (20, written.config, written.numbers)
    assert again.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in written.tensors.items())


def test_empty_run_has_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path, CONFIG) is None


def test_newest_two_are_kept_by_number_not_by_name(run):
    for step in (99_999_999, 100_000_000):  # as text, the second sorts before the first
        save_checkpoint(run, checkpoint(step))
    assert names(run) == ["checkpoint-100000000", "checkpoint-99999999"]
    assert load_checkpoint(run, CONFIG).step == 100_000_000


def test_latest_json_and_the_record_state_what_hashlib_finds(run):
    folder = run / "checkpoint-00000020"
    content = (folder / "state.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert json.loads((run / "latest.json").read_text()) == {"name": folder.name, "sha256": sha256}
    record = json.loads((folder / "checkpoint.json").read_text())
    assert (record["sha256"], record["bytes"], record["step"]) == (sha256, len(content), 20)


def test_saving_a_step_again_replaces_it(run):
    save_checkpoint(run, Checkpoint(step=20, tensors={"model.w": torch.ones(1)}, config=CONFIG))
    assert load_checkpoint(run, CONFIG).tensors["model.w"].tolist() == [1.0]


def test_save_that_was_cut_off_is_removed_and_no_checkpoint(run):
    torn = run / "checkpoint-00000030"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half of it")
    assert load_checkpoint(run, CONFIG).step == 20
    assert not torn.exists()


def test_folders_of_other_names_are_not_touched(run):
    (run / "checkpoint-mine").mkdir()
    (run / "checkpoint-00000030").write_text("a file")
    save_checkpoint(run, checkpoint(40))
    assert load_checkpoint(run, CONFIG).step == 40
    assert (run / "checkpoint-mine").exists()
    assert (run / "checkpoint-00000030").exists()


def truncate(folder):
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-4])


def flip_a_bit(folder):
    state = folder / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-2] ^= 1
    state.write_bytes(content)


def remove_the_state(folder):
    (folder / "state.safetensors").unlink()


def tear_the_record(folder):
    record = folder / "checkpoint.json"
    record.write_text(record.read_text()[:-30])


def forget_the_step(folder):
    change_record(folder, lambda record: {key: value for key, value in record.items() if key != "step"})


def replace_the_record(folder):
    (folder / "checkpoint.json").write_text("[]")


DAMAGES = [
    (truncate, "expected [0-9]+ bytes, got [0-9]+"),
    (flip_a_bit, "expected sha256"),
    (remove_the_state, "expected [0-9]+ bytes, got 0"),
    (tear_the_record, "expected JSON"),
    (forget_the_step, "step: expected a value, got nothing"),
    (replace_the_record, "checkpoint.json: expected an object, got"),
]


@pytest.mark.parametrize(("damage", "fault"), DAMAGES)
def test_damaged_newest_one_is_passed_over_with_a_warning(run, damage, fault):
    damage(run / "checkpoint-00000020")
    with pytest.warns(UserWarning, match=f"going on from checkpoint-00000010: .*{fault}"):
        again = load_checkpoint(run, CONFIG)
    assert again.step == 10
    assert torch.equal(again.tensors["model.w"], checkpoint(10).tensors["model.w"])


def test_run_without_whole_checkpoint_never_restarts_silently(run):
    for folder in run.glob("checkpoint-*"):
        flip_a_bit(folder)
    with pytest.raises(CheckpointError, match=r"expected a whole checkpoint, .*00000020.*00000010.*remove them"):
        load_checkpoint(run, CONFIG)
    assert len(names(run)) == 2


def test_checkpoint_of_a_later_version_is_refused(run):
    change_record(run / "checkpoint-00000020", lambda record: record | {"schema": SCHEMA + 1})
    with pytest.raises(CheckpointError, match=f"schema {SCHEMA + 1}, .* up to {SCHEMA}; update lorasynth"):
        load_checkpoint(run, CONFIG)


def test_checkpoint_of_the_first_version_is_read(run):
    """Its record had no hash of its own."""
    path = run / "checkpoint-00000020/checkpoint.json"
    record = json.loads(path.read_text())
    del record["record_sha256"]
    path.write_text(json.dumps(record | {"schema": 1}, indent=2) + "\n")
    assert load_checkpoint(run, CONFIG).step == 20
    flip_a_bit(path.parent)
    with pytest.warns(UserWarning, match="going on from checkpoint-00000010: .*expected sha256"):
        assert load_checkpoint(run, CONFIG).step == 10


def test_another_configuration_is_refused_by_naming_what_differs(run):
    other = {"width": 8, "loop": {"steps": 200, "seed": 0}, "dropout": 0.1}
    with pytest.raises(
        CheckpointError, match=r"\(dropout is new: 0.1, leave it off to go on; loop.steps: 100 -> 200\)"
    ):
        load_checkpoint(run, other)
    assert load_checkpoint(run, CONFIG).step == 20


@pytest.mark.parametrize("off", [None, False, 0, 0.0, "", [], {}])
def test_new_option_that_is_off_ends_no_run(run, off):
    assert load_checkpoint(run, {**CONFIG, "new": off, "loop": {**CONFIG["loop"], "new": off}}).step == 20


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_lock_under_another_name_is_never_written(tmp_path, make):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("keep")
    make(tmp_path / "precious", tmp_path / "run" / ".lock")
    with pytest.raises(CheckpointError, match="expected a folder that can be written, got"), run_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "keep"


def test_lock_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(CheckpointError, match="is no file of its own"), run_lock(tmp_path):
        pass


def test_foreign_things_in_a_run_are_left_alone(run, tmp_path):
    (run / ".x.part").mkdir()
    (run / "checkpoint-00000099").symlink_to(tmp_path)
    assert load_checkpoint(run, CONFIG).step == 20
    assert (run / ".x.part").is_dir()


@dataclasses.dataclass(frozen=True)
class Loop:
    """A part of a configuration, with a setting that an earlier version had not."""

    steps: int = 100
    seed: int = 0
    hold: float = 0.5


@dataclasses.dataclass(frozen=True)
class Whole:
    """A configuration with two such settings."""

    width: int = 8
    loop: Loop = Loop()
    dropout: float = 0.0


def test_new_settings_at_their_defaults_end_no_run(run):
    assert load_checkpoint(run, config_record(Whole())).step == 20
    assert load_checkpoint(run, config_record(Whole()) | {}).step == 20
    for asked, said in (
        (config_record(Whole(dropout=0.1)), "dropout is new: 0.1, leave it at its default 0.0"),
        (config_record(Whole(loop=Loop(hold=0.0))), "loop.hold is new: 0.0, leave it at its default 0.5"),
        (config_record(Whole()) | {"data": "x"}, "data is new: x, leave it off"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(run, asked)
    with pytest.raises(CheckpointError, match=r"loop.steps: 100 -> 50\); take the old one back"):
        load_checkpoint(run, config_record(Whole(loop=Loop(steps=50))))


def test_tuple_is_the_list_that_json_makes_of_it(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(step=1, tensors={"w": torch.ones(1)}, config={"channels": (1, 2)}))
    assert load_checkpoint(tmp_path, {"channels": (1, 2)}).step == 1
    assert load_checkpoint(tmp_path, {"channels": [1, 2]}).step == 1


def test_differences_are_found_at_any_depth():
    assert config_difference(CONFIG, CONFIG) == []
    # How often it is written down decides nothing, at any depth, and records of before have it.
    often, rarely = (
        EndToEndConfig(through=RefineConfig(loop=LoopConfig(steps=1, checkpoint_every_s=s))) for s in (1.0, 600.0)
    )
    assert config_record(often) == config_record(rarely)
    assert "checkpoint_every_s" not in json.dumps(config_record(often))
    assert config_difference(asdict(often), config_record(rarely)) == []
    assert config_difference({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}) == ["a.b.c: 1 -> 2"]
    assert config_difference({"a": {"b": 1}}, {"a": 3}) == ["a: {'b': 1} -> 3"]


def test_run_in_use_is_refused_until_its_process_ends(tmp_path):
    # Another process locks the file by the system's own call, and is killed as by a crash: it cannot clean up.
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('process 7 on pluto', file=file, flush=True); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match="in use by process 7 on pluto; wait for it, or choose another"):
                run_lock(tmp_path).__enter__()
        finally:
            other.kill()
    with run_lock(tmp_path), pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on "):
        run_lock(tmp_path).__enter__()
    with run_lock(tmp_path / "a/new/folder"):
        assert (tmp_path / "a/new/folder").is_dir()


def test_folder_that_cannot_be_written_is_refused_at_the_start(in_a_closed_folder):
    def refused(folder):
        for place in (folder, folder / "new"):
            with pytest.raises(CheckpointError, match="can be written, got Permission denied"), run_lock(place):
                pass

    in_a_closed_folder(refused)


@pytest.mark.parametrize("bend", ["cut", "lost"])
def test_checkpoint_badly_written_costs_no_older_one(bend, run, monkeypatch):
    from lorasynth.training import checkpoint as module

    def write(path, tensors):
        kept = dict(list(tensors.items())[:1]) if bend == "lost" else tensors
        write_tensors(path, kept)
        if bend == "cut":
            path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(module, "write_large_tensors", write)
    latest = (run / "latest.json").read_bytes()
    with pytest.raises(ModelError, match=r"state\.safetensors: expected"):
        save_checkpoint(run, checkpoint(30))
    assert (run / "latest.json").read_bytes() == latest
    assert load_checkpoint(run, CONFIG).step == 20  # without a warning: there is no record of 30
    assert names(run) == ["checkpoint-00000010", "checkpoint-00000020"]


@pytest.mark.slow
def test_saving_copies_no_state(tmp_path):
    program = """
import re, sys, torch
from pathlib import Path
from lorasynth.training.checkpoint import Checkpoint, save_checkpoint

def peak_MB():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def save(size):
    save_checkpoint(Path(sys.argv[1]), Checkpoint(step=size, tensors={"w": torch.ones(size, 2**18)}, config={}))

save(1)
before = peak_MB()
save(128)
print(peak_MB() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert 120 < float(done.stdout) < 160  # the state itself
