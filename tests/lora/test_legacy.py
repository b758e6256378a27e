"""Pickled files through `lorasynth import-legacy`: tensors come out, nothing else happens."""

import json
import os
import pkgutil
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lorasynth.errors import LoRAFileError, UsageError
from lorasynth.lora import legacy, unpickle
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.legacy import import_legacy

from .making import DOWN, DOWN_K, UP, UP_K, Evil, K, Q, kohya, numbers, peft, peft_style, spoiled

COMMAND = ("pt", "os.system", "bomb", "cut")
"""Cases in which the reader is the command that it is for users. Each imports torch anew, which is most of a test's time."""


@pytest.fixture
def forked(request, monkeypatch):
    """In other cases the reader is forked of this process: the same code and limits, with torch there already."""
    if request.node.name.partition("[")[2].rstrip("]") in COMMAND:
        return

    def run(command, **_):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(write, json.dumps(unpickle.main(*command[3:])).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as said:
            record = said.read()
        os.waitpid(child, 0)
        return SimpleNamespace(stdout=record, returncode=0)

    monkeypatch.setattr(legacy.subprocess, "run", run)


def saved(folder, value, name="old.pt", **options):
    torch.save(value, folder / name, **options)
    return folder / name


def bomb(folder):
    """A .pt of 1 MB whose one tensor is 1 GB of zeros by itself, unpacked by whoever reads it."""
    small = saved(folder, {"a": torch.zeros(8)}, "small.pt")
    with zipfile.ZipFile(small) as plain, zipfile.ZipFile(folder / "old.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            if not name.endswith("data/0"):
                archive.writestr(name, plain.read(name))
                continue
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(1024):
                    member.write(bytes(2**20))
    return folder / "old.pt"


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (dict, {}),
        (OrderedDict, {"_use_new_zipfile_serialization": False}),
        (lambda tensors: {"state_dict": tensors, "epoch": 3}, {}),
    ],
    ids=["pt", "before-1.6", "ckpt"],
)
@pytest.mark.slow
def test_pickled_lora_becomes_the_same_lora(forked, tmp_path, wrap, options):
    old, new = saved(tmp_path, wrap(kohya()), **options), tmp_path / "new.safetensors"
    record = import_legacy(old, new)
    assert record["lora"] == {"format": "kohya", "base": "", "rank": 2, "modules": 2}
    assert (record["num_tensors"], [fault["code"] for fault in record["faults"]]) == (6, ["base-unknown"])
    assert record["left_out"] == (["epoch"] if "epoch" in wrap({}) else [])
    tensors = load_file(new)
    assert tensors.keys() == kohya().keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in kohya().items())
    assert {m.name for m in LoRA.load(new).layout.modules} == {Q, K}


def test_types_parameters_and_shared_tensors_are_kept(forked, tmp_path):
    tensors = kohya() | {DOWN: torch.nn.Parameter(numbers(2, 8).half()), UP: numbers(2, 6).T}
    tensors[DOWN_K], tensors[UP_K] = (part := numbers(2, 4)), part.reshape(4, 2)
    import_legacy(saved(tmp_path, tensors), tmp_path / "new.safetensors")
    found = load_file(tmp_path / "new.safetensors")
    assert (found[DOWN].dtype, found[UP].shape) == (torch.float16, (6, 2))
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    "value", [numbers(5, 3), {"mean": numbers(5), "std": numbers(5), "basis": numbers(5, 3)}], ids=["one", "three"]
)
def test_plain_tensors_such_as_w2ws_are_kept_as_they_are(forked, tmp_path, value):  # row 91
    record = import_legacy(saved(tmp_path, value), tmp_path / "new.safetensors")
    assert record["lora"] is None
    found = load_file(tmp_path / "new.safetensors")
    expected = {"tensor": value} if isinstance(value, torch.Tensor) else value
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_pefts_weights_go_beside_their_configuration(forked, tmp_path):
    folder = peft({"lora_alpha": 6})(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    old = saved(folder, peft_style(), "adapter_model.bin")
    with pytest.raises(LoRAFileError, match=r"adapter_config\.json: expected it beside the weights"):
        import_legacy(old, tmp_path / "alone.safetensors")
    record = import_legacy(old, folder / "adapter_model.safetensors")
    assert (record["lora"]["format"], record["lora"]["rank"]) == ("peft", 2)
    tensors = peft_style()
    A, B = (tensors[f"base_model.model.{Q}.lora_{half}.weight"] for half in "AB")
    torch.testing.assert_close(LoRA.load(folder).delta_W(Q), 3 * B @ A)


BAD = {
    "os.system": (
        lambda f: saved(f, {"a": Evil(os.system, f"touch {f}/pwned")}),
        "unsafe-pickle",
        ["tensors alone", "posix.system"],
    ),
    "os.system-before-1.6": (
        lambda f: saved(f, {"a": Evil(os.system, f"touch {f}/pwned")}, _use_new_zipfile_serialization=False),
        "unsafe-pickle",
        ["posix.system"],
    ),
    "resolve_name": (
        lambda f: saved(f, {"a": Evil(pkgutil.resolve_name, "os:system")}),
        "unsafe-pickle",
        ["pkgutil.resolve_name"],
    ),
    "bomb": (bomb, "legacy", ["within 515 MB of memory and 120 seconds", "memory"]),
    "a-list": (lambda f: saved(f, [numbers(2)]), "legacy", ["a dict of tensors by name", "an object of type list"]),  # row 89
    "a-number": (lambda f: saved(f, 3), "legacy", ["a dict of tensors by name", "an object of type int"]),
    "another-project": (  # row 90
        lambda f: saved(f, {"model": {"w": numbers(2)}, "epoch": 3}),
        "legacy",
        ["a dict of tensors by name", "a dict with a dict at 'model'"],
    ),
    "a-key-of-no-text": (lambda f: saved(f, {3: numbers(2)}), "legacy", ["a Tensor at 3"]),
    "nan": (lambda f: saved(f, kohya() | {DOWN: spoiled(torch.nan)}), "not-finite", [DOWN, "finite numbers", "(1, 3)"]),
    "half-a-pair": (lambda f: saved(f, {k: v for k, v in kohya().items() if k != UP}), "missing-half", ["lora_B"]),
    "illegal-key": (lambda f: saved(f, {"../../x": numbers(2)}), "illegal-key", ["../../x"]),
    "no-tensors": (lambda f: saved(f, {}), "no-tensors", ["tensors"]),
    "not-there": (lambda f: f / "none.pt", "not-found", ["nothing there"]),
    "a-folder": (lambda f: (f / "old.pt").mkdir() or f / "old.pt", "not-a-file", ["a regular file", "a folder"]),
    "text": (lambda f: (f / "old.pt").write_text("words") and f / "old.pt", "legacy", ["PyTorch does not read"]),
    "cut": (
        lambda f: (p := saved(f, kohya())).write_bytes(p.read_bytes()[:300]) and p,
        "legacy",
        ["PyTorch does not read"],
    ),
    "safetensors": (lambda f: kohya_file(f).rename(f / "x.pt"), "other-kind", ["a PyTorch file", "convert"]),
}  # fmt: skip


def kohya_file(folder):
    import_legacy(saved(folder, kohya(), "good.pt"), folder / "good.safetensors")
    return folder / "good.safetensors"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.slow
def test_bad_pickle_is_refused_and_nothing_written_or_run(forked, tmp_path, name):
    make, code, says = BAD[name]
    path = make(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(LoRAFileError, match="expected") as error:
        import_legacy(path, tmp_path / "new.safetensors")
    message, fault = str(error.value), error.value.fault
    assert error.value.code == code, message
    assert message.startswith(f"{path}: {fault.key}: expected {fault.expected}, got {fault.actual}. Fix: {fault.fix}")
    assert not [words for words in says if words not in message], message
    assert message.isprintable()
    assert listing(tmp_path) == before


def test_reader_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(legacy, "MAX_SECONDS", 0.1)
    with pytest.raises(LoRAFileError, match="got one that takes longer"):
        import_legacy(saved(tmp_path, kohya()), tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_place_is_looked_at_before_the_work(forked, tmp_path):
    old = saved(tmp_path, kohya())
    with pytest.raises(UsageError, match=r"expected a name that ends in \.safetensors, got '\.pt'"):
        import_legacy(old, tmp_path / "new.pt")
    (tmp_path / "new.safetensors").write_text("mine")
    with pytest.raises(Exception, match="exists already"):
        import_legacy(old, tmp_path / "new.safetensors")
    assert (tmp_path / "new.safetensors").read_text() == "mine"
    import_legacy(old, tmp_path / "new.safetensors", force=True)
    assert inspect_file(tmp_path / "new.safetensors").ok


@pytest.mark.slow
def test_command_says_what_came_out_and_exits_with_2_on_bad_file(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "lorasynth", "import-legacy", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    good = run(saved(tmp_path, kohya(), "good.ckpt"), tmp_path / "new.safetensors")
    assert (good.returncode, json.loads(good.stdout)["lora"]["format"]) == (0, "kohya")
    evil = saved(tmp_path, {"a": Evil(os.system, f"touch {tmp_path}/pwned")}, "evil.bin")
    bad = run(evil, tmp_path / "evil.safetensors")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith(
        f"lorasynth: {evil}: file: expected tensors alone, got a pickle that asks for posix.system."
    )
    assert len(bad.stderr.splitlines()) == 1
    assert listing(tmp_path) == ["evil.bin", "good.ckpt", "new.safetensors"]


@pytest.mark.slow
def test_killed_command_leaves_no_temporary_file(tmp_path):
    source = saved(tmp_path, {"a": torch.zeros(8)})
    place = tmp_path / "temporary"
    place.mkdir()
    command = [sys.executable, "-m", "lorasynth", "import-legacy", str(source), str(tmp_path / "new.safetensors")]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(place)}, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (tmp_path / "new.safetensors").exists():
            assert not os.listdir(place)
            time.sleep(0.01)
        process.kill()
    assert not os.listdir(place)
