"""Run the notebooks and keep their pictures alone: `make notebooks`, after a change of what they show."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main() -> None:
    """Run each in an empty folder, with the program of this Python, and write it back."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        kept = dict(notebook.metadata)
        with TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if "image/png" in output.get("data", {})]
                cell.execution_count, cell.metadata = None, {}
                for output in cell.outputs:
                    output.execution_count, output.metadata = None, {}
                    output.data = {"image/png": output.data["image/png"]}
        notebook.metadata = kept
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
