"""Only a regular file is ever replaced, and that is checked before the work; for every option of every verb."""

import os
import socket
import stat
import sys
import warnings

import pytest
import typer

from lorasynth.cli import main
from lorasynth.cli.app import app
from lorasynth.errors import OutputExistsError, UsageError
from lorasynth.storage import files, outputs

KINDS = ("device", "pipe", "socket", "folder", "link", "link to nothing", "link to a device")
OUTPUT_OPTIONS = {"output", "json", "grid", "html", "report", "target"}
FOLDER_OPTIONS = {"out", "cache"}


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Names of what is no regular file, by kind; some systems let nobody make a device."""
    (tmp_path / "kept").write_text("keep")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "link to nothing").symlink_to("nothing")
    (tmp_path / "link to a device").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 letters
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    try:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        (tmp_path / "device").mkdir()  # refused by the same rule
    return {kind: tmp_path / kind for kind in KINDS}


def states(folder):
    return {path.name: (path.lstat().st_mode, path.lstat().st_ino) for path in folder.iterdir()}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_never_replaced(no_files, tmp_path, kind, force):
    before = states(tmp_path)
    for write in (
        lambda path: outputs.require_new_output(path, force=force),
        lambda path: files.write_bytes(path, b"x"),
        lambda path: files.write_json(path, {}),
    ):
        with pytest.raises(UsageError, match=r"expected a file name to write, got a (device|pipe|socket|folder|link)"):
            write(no_files[kind])
    assert states(tmp_path) == before
    assert (tmp_path / "kept").read_text() == "keep"


def test_new_output_is_accepted_and_nothing_is_made(tmp_path):
    assert outputs.require_new_output(str(tmp_path / "new")) == tmp_path / "new"
    assert os.listdir(tmp_path) == []


def test_output_that_exists_needs_force(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"x: exists already; .*--force"):
        outputs.require_new_output(tmp_path / "x")
    assert outputs.require_new_output(tmp_path / "x", force=True) == tmp_path / "x"


@pytest.mark.parametrize("force", [False, True])
def test_output_that_cannot_be_is_refused_before_the_work(force, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, said in [
        (tmp_path, "got a folder"),
        (tmp_path / "none" / "x", "does not exist; make it first"),
        (tmp_path / "file" / "x", "does not exist; make it first"),
        (tmp_path / ("a" * 300), "name too long"),
        ("a\0b", "null"),
        ("-", "only --json writes to standard output"),
    ]:
        with pytest.raises(UsageError, match=said):
            outputs.require_new_output(path, force=force)


def test_folder_without_permission_is_refused(in_a_closed_folder):
    def refused(folder):
        for check in (outputs.require_new_output, outputs.require_output_folder, outputs.make_folder):
            with pytest.raises(UsageError, match="cannot be written"):
                check(folder / "x")

    in_a_closed_folder(refused)


def test_folder_to_write_into_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(tmp_path)
    for good in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "c"):
        assert outputs.require_output_folder(good) == good
    assert outputs.make_folder(tmp_path / "a" / "b").is_dir()
    for bad, said in [
        (tmp_path / "file", "expected a folder, got a file"),
        (tmp_path / "file" / "x", "expected a folder, got a file"),
        (tmp_path / "loop", "expected a folder, got a link"),
        (tmp_path / "no" / ("x" * 300), "cannot be a folder .*name too long"),
        ("a\0b", "null"),
    ]:
        for check in (outputs.require_output_folder, outputs.make_folder):
            with pytest.raises(UsageError, match=said):
                check(bad)


# The verbs: every option that writes, found in the program itself.

GIVEN = {
    "synthesize": ["photo.png", "--consent", "self", "-o", "new"], "render": ["-p", "x", "-o", "new.png"], "inspect": ["f"],
    "convert": ["f", "new"], "resize": ["f", "--rank", "1", "-o", "new"], "merge": ["f", "f", "-o", "new"],
    "import-legacy": ["f", "new.safetensors"], "experiment": ["sampler"], "doctor": [], "demo": [],
    "evaluate": [],
    "zoo build": ["portraits_tiny", "--out", "new"], "zoo import": ["f", "--out", "new", "--licence", "x"], "zoo info": ["z"],
    "zoo verify": ["z"], "zoo repair": ["z"], "zoo resize": ["z", "--rank", "1", "--out", "new"],
    "zoo forget": ["z", "--person", "1"], "zoo export": ["z", "--item", "a", "--out", "new"], "zoo nearest": ["z", "f"],
    **{
        f"train {stage}": ["portraits_tiny", "--zoo", "z", "--out", "new"]
        for stage in ("vae", "prior", "end-to-end", "settings", "all")
    },
    "zoo pilot": ["portraits_tiny", "--out", "new"], "card": ["f", "--out", "new", "--licence", "x"],
    "train refine": ["portraits_tiny", "--out", "new"],
    "data check": ["z", "--encoder", "portraits"], "data export": ["portraits", "--out", "new"],
}  # fmt: skip
"""What each verb needs to be understood; none of it is there."""


def commands(group=None, prefix=""):
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())
CASES = [(verb, p.name) for verb, c in COMMANDS.items() for p in c.params if p.name in OUTPUT_OPTIONS | FOLDER_OPTIONS]


def words_of(verb, option, place):
    """A command line in which one option names a place."""
    words, flag = list(GIVEN[verb]), next(p for p in COMMANDS[verb].params if p.name == option).opts[0]
    if option == "target":
        words[1] = place
    elif flag in words:
        words[words.index(flag) + 1] = place
    else:
        words += [flag, place]
    return [*verb.split(), *words]


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lorasynth", *map(str, words)])
        with pytest.raises(SystemExit, match=r"^\d+$") as stop, warnings.catch_warnings():
            main()
        return stop.value.code, capsys.readouterr()

    return run


def test_every_verb_that_writes_is_known_here():
    assert COMMANDS.keys() == GIVEN.keys()
    assert all(
        "json" in [p.name for p in c.params] and "force" in [p.name for p in c.params] for c in COMMANDS.values()
    )


@pytest.mark.parametrize(("verb", "option"), CASES)
def test_no_option_of_any_verb_replaces_what_is_no_file(call, no_files, tmp_path, verb, option):
    endings = {"grid": ".png", "html": ".html", "report": ".md"} | ({"output": ".png"} if verb == "render" else {})
    endings |= {"target": ".safetensors"} if verb == "import-legacy" else {}
    before = states(tmp_path)
    for number, (kind, path) in enumerate(no_files.items(), CASES.index((verb, option))):
        if option in FOLDER_OPTIONS and (kind == "folder" or (kind == "device" and path.is_dir())):
            continue
        place = path.rename(path.with_name(kind + endings.get(option, "")))
        # Every second kind with --force, and for the next option the others.
        force = ["--force"] if number % 2 and not (option in FOLDER_OPTIONS and kind == "link") else []
        code, said = call(*words_of(verb, option, place), *force)
        assert code == 2, (kind, said.err)
        assert len(said.err.splitlines()) == 1
        assert "expected a f" in said.err, said.err
        assert said.out == ""
        place.rename(path)
    assert states(tmp_path) == before
    assert (tmp_path / "kept").read_text() == "keep"


@pytest.mark.parametrize("verb", COMMANDS)
def test_results_ask_for_force_like_every_output(call, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("precious")
    code, said = call(*verb.split(), *GIVEN[verb], "--json", "notes.txt")
    assert (code, said.err) == (2, "lorasynth: notes.txt: exists already; choose another name or give --force\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb.startswith(("zoo", "train", "data"))])
def test_results_do_not_go_into_a_zoo_or_a_run(call, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    for folder in {"z", "new"} & set(GIVEN[verb]):
        (tmp_path / folder).mkdir(exist_ok=True)
        code, said = call(*verb.split(), *GIVEN[verb], "--json", f"{folder}/manifest.jsonl", "--force")
        assert (code, "expected a file of its own for --json" in said.err) == (2, True)
    assert not list(tmp_path.rglob("manifest.jsonl"))
