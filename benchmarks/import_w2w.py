"""Importing weights2weights' file: seconds a row and peak memory, for two sizes of a stand-in in its exact format.

    python benchmarks/import_w2w.py 2500 10000

Needs 0.6 MB of temporary disk a row (10,000 rows: 6 GB). The rows are planted: 32 random directions and noise.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

P, DIRECTIONS, CHUNK = 99_648, 32, 500
CHILD = """
import re, sys, time
from lorasynth.cli.app import app
start = time.process_time()
try:
    app(sys.argv[1:])
finally:
    # Not getrusage: its largest size begins with that of the process that started this one.
    print(time.process_time() - start, int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def make_release(folder: Path, rows: int) -> None:
    """``all_weights.pt``, a table of three rows a person, and embeddings that the rows depend on."""
    g = torch.Generator().manual_seed(0)
    basis, codes = torch.randn(DIRECTIONS, P, generator=g), torch.randn(rows, DIRECTIONS, generator=g)
    matrix = torch.empty(rows, P)
    for part, code in zip(matrix.split(CHUNK), codes.split(CHUNK), strict=True):
        part.copy_(0.005 * code @ basis + 0.01 * torch.randn(part.shape, generator=g))
    torch.save(matrix, folder / "all_weights.pt")
    faces = codes @ torch.randn(DIRECTIONS, 512, generator=g)
    np.save(folder / "faces.npy", (faces / faces.norm(dim=1, keepdim=True)).numpy())
    (folder / "people.csv").write_text("row,person\n" + "".join(f"{n},{n // 3}\n" for n in range(rows)))


def measure(rows: int) -> dict[str, float]:
    """Import ``rows`` in a process of their own; its CPU seconds and largest resident memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_release(folder, rows)
        arguments = [
            "zoo",
            "import",
            "--w2w",
            name,
            "--table",
            f"{name}/people.csv",
            "--embeddings",
            f"{name}/faces.npy",
        ]
        arguments += ["--out", f"{name}/zoo", "--licence", "made", "--json", f"{name}/record.json"]
        done = subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True)
        seconds, megabytes = map(float, done.stdout.split()[-2:])
        record = json.loads((folder / "record.json").read_text())
        return {"rows": rows, "imported": record["imported"], "ms_a_row": 1e3 * seconds / rows, "peak_MB": megabytes}


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit()
    for given in sys.argv[1:] or ["2500", "10000"]:
        print(json.dumps(measure(int(given))), flush=True)
