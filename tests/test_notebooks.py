"""The notebooks run from the first cell to the last, and hold no output but pictures."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import lorasynth

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SOURCE = Path(lorasynth.__file__).parents[1]


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_notebooks_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["face_in_a_minute", "folder_on_a_tiny_base"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output_but_pictures(path):
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    assert outputs
    assert all(list(output.data) == ["image/png"] for output in outputs)
    assert all(cell.execution_count is None for cell in cells(path, "code"))
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_begins_with_what_colab_needs(path):
    first = cells(path, "code")[0].source
    assert "%pip install --quiet lorasynth" in first
    assert "torch.cuda.is_available()" in first
    assert cells(path, "markdown")[0].source.partition("\n\n")[2].startswith("After this notebook you have")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "lorasynth"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lorasynth "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{SOURCE}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    shown = [list(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, before in zip((c for c in notebook.cells if c.cell_type == "code"), shown, strict=True):
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == len(before)
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert re.search(r"device: c", said)
