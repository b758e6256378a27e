"""What people do by mistake, tried with every verb: exit code 2, one line that names the place, and nothing written."""

import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from lorasynth.cli import main
from lorasynth.lora.factors import LoRA
from lorasynth.zoo.store import Zoo

from .making import sd15_layout

LONG, TOO_LONG = "x" * 300, "y" * 5_000
BAD_FILES = [
    "closed/l.safetensors",
    "locked.safetensors",
    LONG,
    TOO_LONG,
    "file/x",
    "file",
    "empty",
    "nothing",
    "/dev/null",
    "",
]
BAD_ZOOS = ["closed/zoo", LONG, TOO_LONG, "file", "empty", "/dev/null", "half"]
BAD_FOLDERS = ["closed/x", "closed", "locked/x", LONG, TOO_LONG, "file/x", "/dev/null", "/dev/full/x"]
BAD_MODELS = ["closed/model", LONG, TOO_LONG, "file", "empty", "/dev/null", "zoo", "a/b/c"]
FIT = ["--zoo", "{}", "--out", "new"]
CASES = [
    (BAD_FILES, ["inspect", "{}"]), (BAD_FILES, ["convert", "{}", "new.safetensors"]),
    (BAD_FILES, ["import-legacy", "{}", "new.safetensors"]), (BAD_FILES, ["zoo", "nearest", "zoo", "{}"]),
    (BAD_FILES, ["zoo", "import", "{}", "--out", "new", "--licence", "x"]),
    (BAD_FILES, ["zoo", "import", "lora.safetensors", "--table", "{}", "--out", "new", "--licence", "x"]),
    (BAD_FILES, ["zoo", "import", "lora.safetensors", "--layout", "{}", "--out", "new", "--licence", "x"]),
    (BAD_FILES, ["synthesize", "{}", "-o", "new.safetensors", "--consent", "self"]),
    (BAD_FILES, ["synthesize", "--embedding", "{}", "-o", "new.safetensors", "--consent", "self"]),
    (BAD_FILES, ["zoo", "build", "portraits_tiny", "--settings", "{}", "--out", "new"]),
    (BAD_MODELS, ["synthesize", "photo.png", "--model", "{}", "-o", "new.safetensors", "--consent", "self"]),
    (BAD_MODELS, ["evaluate", "{}", "--people", "2"]),
    *((BAD_ZOOS, ["zoo", verb, "{}", *rest]) for verb, rest in (
        ("info", []), ("verify", []), ("repair", []), ("resize", ["--rank", "1", "--out", "new"]), ("forget", ["--person", "1"]),
        ("export", ["--item", "a", "--out", "new"]), ("nearest", ["lora.safetensors"]),
    )),
    *((BAD_ZOOS, ["train", stage, "portraits_tiny", *FIT]) for stage in ("vae", "prior", "end-to-end", "all")),
    (BAD_ZOOS, ["experiment", "sampler", *FIT]), (BAD_ZOOS, ["evaluate", "--zoo", "{}"]),
    *((BAD_FOLDERS, words) for words in (
        ["demo", "--out", "{}"], ["zoo", "build", "portraits_tiny", "--out", "{}"],
        ["zoo", "pilot", "portraits_tiny", "--out", "{}"],
        ["zoo", "import", "lora.safetensors", "--out", "{}", "--licence", "x"],
        ["zoo", "resize", "zoo", "--rank", "1", "--out", "{}"], ["zoo", "export", "zoo", "--item", "a-1", "--out", "{}"],
        ["train", "vae", "portraits_tiny", "--zoo", "zoo", "--out", "{}"], ["train", "refine", "portraits_tiny", "--out", "{}"],
        ["experiment", "sampler", "--zoo", "zoo", "--out", "{}"], ["evaluate", "--cache", "{}", "--people", "2"],
        ["inspect", "lora.safetensors", "--json", "{}"], ["convert", "lora.safetensors", "{}"],
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sound files and with what people name by mistake."""
    folder = tmp_path_factory.mktemp("place")
    layout = sd15_layout(true_shape=True)
    LoRA.random(layout).save(folder / "lora.safetensors")
    zoo = Zoo.create(folder / "zoo", layout, {"a": 1}, None)
    zoo.append("s", [1], ["train"], LoRA.random(layout).vector[None], torch.randn(1, 1, 8), "here", "CC0", ids=["a-1"])
    shutil.copy(Path(__file__).parents[1] / "docs" / "demo.png", folder / "photo.png")
    (folder / "file").write_text("x")
    for name in ("empty", "closed", "locked", "half"):
        (folder / name).mkdir()
    (folder / "half" / "zoo.json").write_text("{}")
    shutil.copytree(folder / "zoo", folder / "closed" / "zoo")
    shutil.copy(folder / "lora.safetensors", folder / "closed" / "l.safetensors")
    shutil.copy(folder / "lora.safetensors", folder / "locked.safetensors")
    (folder / "locked.safetensors").chmod(0)
    (folder / "closed").chmod(0)
    (folder / "locked").chmod(0o555)
    yield folder
    (folder / "closed").chmod(0o755)


def give_up_roots_rights():
    """Let permissions hold for root, too, in this process: no CAP_DAC_OVERRIDE and no CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110
    sets[1] &= ~0b110
    assert libc.capset(header, sets) == 0


def said_of(place, commands):
    """Exit code and standard error of each command line, in a child without root's rights."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read)
            give_up_roots_rights()
            os.chdir(place)
            warnings.simplefilter("ignore")
            results = []
            for words in commands:
                said = io.StringIO()
                sys.argv = ["lorasynth", *words]
                signal.alarm(60)
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                    try:
                        main()
                        code = 0
                    except SystemExit as stop:
                        code = stop.code
                    except BaseException as error:
                        code = f"{type(error).__name__}: {error!s:.200}"
                results.append([code, said.getvalue()])
            with os.fdopen(write, "w") as file:
                json.dump(results, file)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said)


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "words"), CASES, ids=lambda value: " ".join(value)[:40] if "{}" in value else "")
def test_every_verb_answers_a_mistake_in_one_line(place, bad, words):
    before = sorted(place.iterdir())
    commands = [[word.format(name) for word in words] for name in bad]
    for command, (code, said) in zip(commands, said_of(place, commands), strict=True):
        shown = [word[:40] for word in command]
        assert code == 2, (shown, code, said[-300:])
        assert len(said.splitlines()) == 1, (shown, said[-600:])
        assert said.startswith("lorasynth: "), (shown, said)
        assert len(said) < 4_200, shown
    if words[:3] == ["zoo", "import", "{}"]:  # why each LoRA was refused
        shutil.rmtree(place / "new", ignore_errors=True)
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("threads", ["2,1", "0", "-1", "many", "1e3", "9" * 30, "²"])
def test_wrong_number_of_threads_is_one_line(threads):
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    result = subprocess.run(
        [sys.executable, "-m", "lorasynth", "doctor"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith("lorasynth: OMP_NUM_THREADS: expected a number from 1 to 1024, got ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_launchers_number_that_is_none_is_one_line(name, monkeypatch):
    from lorasynth.errors import UsageError
    from lorasynth.training.processes import launched

    monkeypatch.setenv(name, "two")
    with pytest.raises(UsageError, match=f"{name}: expected a number, as torchrun sets it, got 'two'"), launched():
        pass


@pytest.mark.slow
def test_another_encoding_than_utf8_ends_no_command(tmp_path):
    layout = sd15_layout(true_shape=True)
    lora = LoRA.random(layout).save(tmp_path / "größe-世界-😀.safetensors", metadata={"title": "ΔW 😀"})
    for encoding in ("ascii", "latin-1"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "lorasynth"]
        seen = subprocess.run([*command, "inspect", lora], capture_output=True, env=environment, timeout=120)
        assert seen.returncode == 0, seen.stderr
        assert json.loads(seen.stdout.decode(encoding))["metadata"]["title"] == "ΔW 😀"
        help = subprocess.run([*command, "convert", "--help"], capture_output=True, env=environment, timeout=120)
        assert help.returncode == 0, help.stderr
        refused = subprocess.run([*command, "inspect", "größe-😀"], capture_output=True, env=environment, timeout=120)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_name_that_is_no_text_is_kept_in_results(tmp_path):
    name = os.fsdecode(b"caf\xe9.safetensors")
    LoRA.random(sd15_layout(true_shape=True)).save(tmp_path / name)
    results = tmp_path / "results.json"
    for json_option in (["--json", str(results)], []):
        command = [
            sys.executable,
            "-m",
            "lorasynth",
            "zoo",
            "import",
            name,
            "--licence",
            "x",
            "--out",
            "zoo",
            *json_option,
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, errors="replace")
        assert "Traceback" not in done.stderr
    seen = subprocess.run(
        [sys.executable, "-m", "lorasynth", "convert", name, "out.safetensors"],
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout)["in"] == name


@pytest.mark.slow
def test_results_on_standard_output_are_all_that_is_there(tmp_path):
    lora = LoRA.random(sd15_layout(true_shape=True)).save(tmp_path / "lora.safetensors")
    command = [
        sys.executable,
        "-m",
        "lorasynth",
        "convert",
        str(lora),
        str(tmp_path / "new.safetensors"),
        "--json",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["out"] == str(tmp_path / "new.safetensors")
    assert not Path("-").exists()
