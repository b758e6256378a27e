"""Checkpoints of a process that is killed, whose disk is full, or whose files rot: the newest whole one is always found."""

import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from lorasynth.errors import UsageError
from lorasynth.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

FORK = multiprocessing.get_context("fork")
CONFIG = {"width": 8}
KILLS, KILLS_WHILE_WRITING = 500, 200


def checkpoint(step, size=50_000):
    tensors = {"model.w": torch.full((size,), float(step)), "optimizer.w.step": torch.tensor(float(step))}
    return Checkpoint(step=step, tensors=tensors, config=CONFIG, numbers={"history": [{"step": step, "loss": 0.5}]})


def assert_whole(found, step=None):
    """It is the checkpoint of its step, to the last number."""
    assert step is None or found.step == step
    for name, tensor in checkpoint(found.step).tensors.items():
        assert torch.equal(found.tensors[name], tensor)


def load(run):
    """The newest checkpoint; a warning, that one is damaged, is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_checkpoint(run, CONFIG, clean=False)


def unfinished(run):
    """What a save that was cut off has left."""
    return [
        path.name
        for path in run.rglob("*")
        if path.name.endswith(".part")
        or path.name.startswith(".tmp")
        or (path.is_dir() and not (path / "checkpoint.json").exists())
    ]


@pytest.mark.slow
def test_run_killed_at_random_goes_back_less_than_one_save(tmp_path):
    """As often as the bar says; each process sweeps up after the last one and goes on from what it finds."""
    done, begun, chance = FORK.RawValue("q", 0), FORK.Event(), random.Random(0)

    def child():
        found = load_checkpoint(tmp_path, CONFIG)
        assert unfinished(tmp_path) == []
        begun.set()
        for step in range(found.step + 1, sys.maxsize):
            save_checkpoint(tmp_path, checkpoint(step))
            done.value = step

    save_checkpoint(tmp_path, checkpoint(0))
    while_writing = 0
    for _ in range(KILLS):
        begun.clear()
        process = FORK.Process(target=child)
        process.start()
        assert begun.wait(60)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        while_writing += unfinished(tmp_path) != []
        found = load(tmp_path)
        assert_whole(found)
        assert found.step in (done.value, done.value + 1)
        done.value = found.step
    assert while_writing >= KILLS_WHILE_WRITING


# Each point of a save by its name.


def kill_before(number, points):
    """Have this process killed at the ``number``-th point of what it does; the names of those it comes to go into ``points``."""
    seen = 0

    def reach(point, path):
        nonlocal seen
        name = Path(path).name.lstrip(".").partition(".")[0].partition("-")[0]
        seen += 1
        points.send(f"{point} {name}")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner, name, before, after, path_of):
        real = getattr(owner, name)

        def wrapped(*arguments, **options):
            if before:
                reach(before, path_of(arguments, options))
            result = real(*arguments, **options)
            if after:
                reach(after, path_of(arguments, options))
            return result

        setattr(owner, name, wrapped)

    wrap(tempfile, "mkstemp", "before temp", None, lambda a, o: o["prefix"])
    wrap(os, "fsync", None, "after fsync", lambda a, o: os.readlink(f"/proc/self/fd/{a[0]}"))
    wrap(Path, "replace", "before rename", "after rename", lambda a, o: a[1])
    wrap(os, "unlink", "mid-prune", "mid-prune", lambda a, o: a[0])
    wrap(os, "rmdir", "mid-prune", "mid-prune", lambda a, o: a[0])


NAMED = {
    *(f"{point} {name}" for point in ("before temp", "after fsync", "before rename", "after rename")
      for name in ("state", "checkpoint", "latest")),
    "mid-prune state", "mid-prune checkpoint",
}  # fmt: skip


@pytest.mark.slow
def test_newest_is_whole_after_a_kill_at_each_named_point(tmp_path):
    number, reached = 0, set()
    while True:
        number += 1
        run = tmp_path / str(number)
        for step in (1, 2):
            save_checkpoint(run, checkpoint(step))
        here, there = FORK.Pipe(duplex=False)

        def child(number=number, run=run, points=there):
            kill_before(number, points)
            save_checkpoint(run, checkpoint(3))

        process = FORK.Process(target=child)
        process.start()
        there.close()
        process.join()
        points = []
        while here.poll():
            try:
                points.append(here.recv())
            except EOFError:
                break
        here.close()
        if process.exitcode == 0:
            break
        reached.add(points[-1])
        found = load(run)
        assert_whole(found)
        assert found.step == (3 if any("after rename checkpoint" in point for point in points) else 2), points[-1]
        assert load_checkpoint(run, CONFIG).step == found.step
        assert unfinished(run) == [], points[-1]
        save_checkpoint(run, checkpoint(4))
        assert sorted(path.name for path in run.glob("checkpoint-*")) == [
            f"checkpoint-{found.step:08d}", "checkpoint-00000004"
        ], points[-1]  # fmt: skip
    assert reached >= NAMED


def ended(child):
    """How a process that does this ends: its exit code."""
    process = FORK.Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def killed_by_a_limit(run, limit):
    """A save of step 3 by a process that ends in the middle of a write: at this many bytes of any file."""

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save_checkpoint(run, checkpoint(3))

    return ended(child)


@pytest.mark.slow
def test_newest_is_whole_after_a_kill_within_a_temporary_file(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    size = (tmp_path / "checkpoint-00000002/state.safetensors").stat().st_size
    for limit in range(1, size, size // 12):
        assert killed_by_a_limit(tmp_path, limit) == -signal.SIGXFSZ
        (part,) = tmp_path.rglob("*.part")
        (half,) = part.parent.glob(".tmp*")
        assert half.stat().st_size == 0  # the library asks for all the room first
        assert_whole(load(tmp_path), 2)
        assert_whole(load_checkpoint(tmp_path, CONFIG), 2)
        assert unfinished(tmp_path) == []
    assert killed_by_a_limit(tmp_path, 2 * size) == 0
    assert_whole(load(tmp_path), 3)


def killed_in_the_library(run, written):
    """A save of step 3 by a process that ends when so many bytes are in the library's own temporary file."""

    def child():
        def save_file(tensors, part, metadata=None):
            (part.parent / ".tmpAbCdEf").write_bytes(save(tensors)[:written])
            os.kill(os.getpid(), signal.SIGKILL)

        safetensors.torch.save_file = save_file
        save_checkpoint(run, checkpoint(3))

    return ended(child)


@pytest.mark.slow
def test_newest_is_whole_after_a_kill_within_the_library_file(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    size = (tmp_path / "checkpoint-00000002/state.safetensors").stat().st_size
    for written in (*range(1, size, size // 12), size):
        assert killed_in_the_library(tmp_path, written) == -signal.SIGKILL
        (part,) = tmp_path.rglob(".tmp*")
        assert part.stat().st_size == written
        assert_whole(load(tmp_path), 2)
        assert_whole(load_checkpoint(tmp_path, CONFIG), 2)
        assert unfinished(tmp_path) == []


# Disks that are full.


def full_at(number):
    """Have the disk full at the ``number``-th time that something is written, made durable or named; gives these times."""
    calls = []

    def wrap(owner, name):
        real = getattr(owner, name)

        def wrapped(*arguments, **options):
            if name == "open" and "w" not in arguments[1]:  # what is read needs no room
                return real(*arguments, **options)
            calls.append(name)
            if len(calls) == number:
                if name == "save_file":
                    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return owner, name, wrapped

    return calls, [
        wrap(tempfile, "mkstemp"),
        wrap(safetensors.torch, "save_file"),
        wrap(io, "open"),
        wrap(os, "fsync"),
        wrap(Path, "replace"),
        wrap(Path, "mkdir"),
    ]


def hashes(run):
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in run.rglob("*") if p.is_file()}


def test_disk_full_at_any_moment_leaves_older_checkpoints(tmp_path, monkeypatch):
    """Full at each write and each fsync: said with what is needed and what is free, and nothing is half there."""
    kinds, number = set(), 0
    while True:
        number += 1
        run = tmp_path / str(number)
        for step in (1, 2):
            save_checkpoint(run, checkpoint(step))
        before = hashes(run)
        calls, patches = full_at(number)
        with monkeypatch.context() as patched:
            for patch in patches:
                patched.setattr(*patch)
            try:
                save_checkpoint(run, checkpoint(3))
            except UsageError as error:
                said = str(error)
            else:
                break
        kinds.add(calls[number - 1])
        assert "No space left on device" in said, number
        now = hashes(run)
        assert {name: now.get(name) for name in before if "checkpoint-" in name}.items() <= before.items(), number
        found = load(run)
        assert_whole(found)
        assert unfinished(run) == [], number
        if found.step == 2:
            assert "a checkpoint needs 0.2 MB, " in said, number
            assert now == before, number
        save_checkpoint(run, checkpoint(4))
        assert_whole(load(run), 4)
    assert kinds >= {"mkstemp", "save_file", "open", "fsync", "replace", "mkdir"}
    assert number > 12


def test_file_that_may_not_grow_is_said_so_and_nothing_is_left(tmp_path):
    """The system's own refusal, in the middle of a write."""
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    before = hashes(tmp_path)

    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(UsageError, match=r"File too large.*a checkpoint needs 0\.2 MB, .* free; make room"):
            save_checkpoint(tmp_path, checkpoint(3))

    assert ended(child) == 0
    assert hashes(tmp_path) == before
    assert unfinished(tmp_path) == []


# Bits that rot.


@pytest.mark.slow
def test_changed_or_cut_checkpoint_yields_to_the_one_before(tmp_path):
    """1,000 times, in both of the newest one's files."""
    chance = random.Random(0)
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step, size=400))
    newest = tmp_path / "checkpoint-00000002"
    files = {path: path.read_bytes() for path in (newest / "state.safetensors", newest / "checkpoint.json")}
    for number in range(1_000):
        path = list(files)[number % 2]
        content = bytearray(files[path])
        if number % 5 == 4:
            del content[chance.randrange(len(content)) :]
            what = f"{path.name} cut to {len(content)} bytes"
        else:
            at, flip = chance.randrange(len(content)), chance.randrange(1, 256)
            content[at] ^= flip
            what = f"{path.name}: byte {at} ^ {flip}"
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="passed over a damaged checkpoint, going on from checkpoint-00000001: "):
            found = load_checkpoint(tmp_path, CONFIG)
        assert found.step == 1, what
        assert torch.equal(found.tensors["model.w"], torch.full((400,), 1.0)), what
        path.write_bytes(files[path])
    assert load(tmp_path).step == 2


def test_each_byte_of_the_record_counts(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step, size=4))
    record = tmp_path / "checkpoint-00000002" / "checkpoint.json"
    content = record.read_bytes()
    assert json.loads(content)["schema"] == 2
    for at in range(len(content)):
        record.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.warns(UserWarning, match="going on from checkpoint-00000001"):
            assert load_checkpoint(tmp_path, CONFIG).step == 1, at
