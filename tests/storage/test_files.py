import hashlib
import json
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasynth.errors import ModelError, UsageError
from lorasynth.storage import files, reading

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


# A file is whole or not there.


def test_library_reads_what_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, TENSORS, {"k": "v"})
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[n], t) and loaded[n].dtype == t.dtype for n, t in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"k": "v"}


def test_reader_gives_floats_as_fp32_and_the_rest_unchanged(tmp_path):
    files.write_tensors(tmp_path / "x", TENSORS, {"k": "v"})
    tensors, metadata = files.read_tensors(tmp_path / "x")
    assert metadata == {"k": "v"}
    assert {n: t.dtype for n, t in tensors.items()} == {"b": torch.float32, "a": torch.float32, "n": torch.int64}


def test_both_writers_write_the_same_bytes(tmp_path):
    """In whatever order the library puts the metadata, of any letters."""
    metadata = {f"key{i}": f'"\\ü✓\x1b\n\t/{i}' for i in range(40)}
    tensors = {
        "t": torch.ones(3),
        "half": torch.ones(5, 2).half(),
        "alpha": torch.tensor(2.0),
        "x" * 99: torch.ones(2)[:1],
    }
    files.write_tensors(tmp_path / "a", tensors, metadata)
    files.write_large_tensors(tmp_path / "b", tensors, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_views_and_tensors_with_a_gradient_are_written(tmp_path):
    base = torch.randn(4, 6, requires_grad=True)
    files.write_tensors(tmp_path / "x", {"t": base.T, "part": base[1:, ::2]})
    torch.testing.assert_close(load_file(tmp_path / "x")["t"], base.detach().T)


@pytest.mark.slow
def test_equal_content_is_equal_bytes_in_every_process(tmp_path):
    script = (
        "import sys, torch; from lorasynth.storage.files import write_tensors;"
        "write_tensors(sys.argv[1], {'t': torch.ones(3)}, {f'key{i}': str(i) for i in range(12)})"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "one")], check=True)  # its hashes of text are others
    files.write_tensors(tmp_path / "two", {"t": torch.ones(3)}, {f"key{i}": str(i) for i in range(12)})
    reordered = {f"key{i}": str(i) for i in reversed(range(12))}
    files.write_tensors(tmp_path / "three", {"t": torch.ones(3)}, reordered)
    assert len({(tmp_path / n).read_bytes() for n in ("one", "two", "three")}) == 1


def test_metadata_of_any_script_survives_the_sorting(tmp_path):
    metadata = {"ü": "世界", "quote": 'a "b" \\ \n', "a": ""}
    files.write_tensors(tmp_path / "x", {"t": torch.ones(5, dtype=torch.uint8)}, metadata)
    assert files.read_tensors(tmp_path / "x")[1] == metadata


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_is_that_of_any_new_file(mask, mode, tmp_path, umask):
    umask(mask)
    files.write_bytes(tmp_path / "x", b"1")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("broken"), KeyboardInterrupt()])
def test_error_in_writing_leaves_old_file_alone(error, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write(part):
        part.write_bytes(b"half")
        raise error

    with pytest.raises(UsageError if isinstance(error, OSError) else type(error)):
        files.atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_full_disk_is_one_line_that_names_the_file(tmp_path):
    def write(part):
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"me\.safetensors: could not be written \(No space left on device\)"):
        files.atomic_write(tmp_path / "me.safetensors", write)


@pytest.mark.slow
def test_process_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    script = (
        "import itertools, sys, torch; from lorasynth.storage.files import write_tensors\n"
        "for i in itertools.count():\n"
        "    write_tensors(sys.argv[1], {'t': torch.full((200_000,), float(i))}); print(i, flush=True)\n"
    )
    path = tmp_path / "x"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for seen in range(5):  # the next write has begun when this line is read
            assert process.stdout.readline()
            tensor = load_file(path)["t"]
            assert len(tensor) == 200_000
            assert tensor.min() == tensor.max() >= seen
        process.send_signal(signal.SIGKILL)
    tensor = load_file(path)["t"]
    assert tensor.min() == tensor.max()


def test_writing_into_a_missing_folder_is_the_users_to_mend(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        files.write_bytes(tmp_path / "none" / "x", b"")


# Reading our own folders.


def test_json_comes_back(tmp_path):
    value = {"ü": [1, 2.5, None, True]}
    files.write_json(tmp_path / "x.json", value)
    assert reading.read_json(tmp_path / "x.json") == value == json.loads((tmp_path / "x.json").read_text())


@pytest.mark.parametrize("read", [reading.read_json, files.read_tensors])
def test_bad_file_of_a_model_folder_is_named(read, tmp_path):
    with pytest.raises(ModelError, match="none: not found"):
        read(tmp_path / "none")
    for content in (b"", b"{", b"\xff\xfe\x00\x01 not utf-8", b"<html>"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ModelError, match=r"bad: expected (JSON|UTF-8|a safetensors file)"):
            read(tmp_path / "bad")
    with pytest.raises(ModelError, match="expected"):
        read(tmp_path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert reading.sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
