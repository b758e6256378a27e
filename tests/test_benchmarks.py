"""Every benchmark starts, and what it takes from the package is there, also where it takes it in the middle of its work."""

import ast
import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def imported_from_lorasynth(source):
    """(module, name) of each ``from lorasynth… import name``, in functions and in programs written as strings too."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lorasynth":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nfrom lorasynth" in node.value:
            yield from imported_from_lorasynth(node.value)


def is_there(module, name):
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_there_are_benchmarks():
    assert len(SCRIPTS) > 10


@every_script
def test_benchmark_says_what_it_measures(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    with pytest.raises(SystemExit, match=r"^(0|None|)$"):
        runpy.run_path(str(script), run_name="__main__")
    first_line = ast.get_docstring(ast.parse(script.read_text())).splitlines()[0]
    assert " ".join(first_line.split()) in " ".join(capsys.readouterr().out.split())


@every_script
def test_what_a_benchmark_imports_is_there(script):
    missing = [
        f"{module}.{name}" for module, name in imported_from_lorasynth(script.read_text()) if not is_there(module, name)
    ]
    assert not missing


def test_missing_name_is_seen_wherever_it_is_imported():
    source = (
        'PROGRAM = """\nfrom lorasynth.vae import no_such_name\n"""\ndef f():\n    from lorasynth.nowhere import g\n'
    )
    found = set(imported_from_lorasynth(source))
    assert found == {("lorasynth.vae", "no_such_name"), ("lorasynth.nowhere", "g")}
    assert not any(is_there(*pair) for pair in found)
    assert is_there("lorasynth", "storage")
    assert is_there("lorasynth.storage.rows", "chunks")


def test_ratio_of_two_sides_is_printed_and_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    clock = iter([0, 9, 100, 103, 103, 163, 170, 173, 173, 233])  # the first pair is not counted
    harness = importlib.import_module("_harness")
    monkeypatch.setattr(harness.time, "process_time", lambda: next(clock))
    assert harness.compare("turns", list, list, per_ours=1, per_other=2, runs=2) == (10, 3, 30)
    assert capsys.readouterr().out.startswith("turns ratio=10.00 (ours 3000.000 ms, other 30000.000 ms, runs 2)")
    assert json.loads((tmp_path / "out" / "bench.jsonl").read_text())["ratio"] == 10


@pytest.mark.slow
def test_ways_of_the_gpu_give_one_gradient_on_a_cpu():
    """With arguments in place of hooks, fused products and a captured graph; the script itself compares the gradients."""
    words = ["--tiny", "--people", "2", "--runs", "1", "--ways", "autocast", "arguments", "fused", "compiled"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu_ways.py"), *words], check=True, capture_output=True, text=True
    )
    ways = [line.split()[0] for line in done.stdout.splitlines()[:4]]
    assert ways == ["autocast", "arguments", "fused", "compiled"]
    assert "sampler, compiled" in done.stdout
