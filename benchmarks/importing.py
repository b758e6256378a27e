"""What `lorasynth zoo import` takes for each further small file: CPU milliseconds, beside those of reading the file alone.

    python benchmarks/importing.py --against OTHER/src

A file has 41,472 float16 numbers in 28 modules of the drawn portraits' base at rank 4 (95 kB), in diffusers' names, with an
embedding beside it. Each import is a process of its own, which takes in some files and then more, twice as many and more: the
difference is that of further files, without start-up and survey. "lowered" brings the files to rank 2, by the singular value
decomposition. ``--against`` measures another checkout's package in turns. ``--workers`` counts the CPU time of all processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CHILD = """
import json, os, resource, sys, time
import torch
torch.set_num_threads(1)
from lorasynth.cli.app import app
from lorasynth.lora.factors import LoRA
folder, few, many, rank, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]

def cpu():
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + helpers.ru_utime + helpers.ru_stime

def imported(name, number):
    files = [f"{folder}/{n:05d}.safetensors" for n in range(number)]
    words = ["zoo", "import", *files, "--out", name, "--licence", "CC0", "--layout", "portraits", "--rank", rank]
    start, clock = cpu(), time.perf_counter()
    try:
        app(words + (["--workers", workers] if workers != "1" else []), standalone_mode=False)
    except SystemExit:
        pass
    return cpu() - start, time.perf_counter() - clock

place = os.path.join(sys.argv[6], str(os.getpid()))
imported(place + "-first", few)
small, large = imported(place + "-few", few), imported(place + "-many", many)
start = time.process_time()
for n in range(many):
    LoRA.load(f"{folder}/{n:05d}.safetensors")
reading = (time.process_time() - start) / many
print(json.dumps({"ms": 1e3 * (large[0] - small[0]) / (many - few), "wall_ms": 1e3 * (large[1] - small[1]) / (many - few),
                  "reading_ms": 1e3 * reading}))
"""


def make_files(folder: Path, number: int) -> None:
    """Small LoRAs, each with an embedding."""
    import numpy as np
    import torch

    from lorasynth.lora.factors import LoRA
    from lorasynth.worlds.world import get_world

    layout = get_world("portraits").base.layout(4)
    for n in range(number):
        LoRA.random(layout, seed=n, std=0.05).save(folder / f"{n:05d}.safetensors", "diffusers", torch.float16)
        np.save(folder / f"{n:05d}.npy", np.random.default_rng(n).normal(size=64).astype(np.float32))


def measured(source: str | None, folder: Path, sizes: list[int], rank: int, workers: int, out: str) -> dict[str, float]:
    """One process's figures, by the package in a folder, or by the one that is installed."""
    environment = dict(os.environ) | ({} if source is None else {"PYTHONPATH": source})
    words = [str(folder), *map(str, sizes), str(rank), str(workers), out]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[100, 400], help="files of the two imports")
    parser.add_argument("--runs", type=int, default=3, help="processes of each side")
    parser.add_argument("--workers", type=int, default=1, help="of ours")
    parser.add_argument("--against", help="src folder of another checkout")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "loras"
        folder.mkdir()
        make_files(folder, options.sizes[1])
        for name, rank in (("as they are", 4), ("lowered", 2)):
            sides = {"ours": None} | ({} if options.against is None else {"other": options.against})
            found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(options.runs):
                for side, source in sides.items():
                    workers = options.workers if side == "ours" else 1
                    found[side].append(measured(source, folder, options.sizes, rank, workers, temporary))
            for side, runs in found.items():
                middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                print(
                    f"{name}, {side}: {middle['ms']:.2f} ms of CPU a file, {middle['wall_ms']:.2f} by the clock; reading alone "
                    f"{middle['reading_ms']:.2f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
