"""How what a user calls on a zoo grows with the number of its LoRAs: CPU seconds at each size, and the exponent between sizes.

    python benchmarks/growth.py --sizes 1000 4000 16000 64000

An exponent of 1 is linear, of 2 quadratic. The LoRAs are small (4,096 numbers), so that the work of counting and looking up is
not hidden behind that of reading. Each call runs on a zoo that was opened anew:

open     `Zoo.open`
info     what `lorasynth zoo info` adds to it: faults that lines and sizes show
verify   every byte against its checksum, as `lorasynth zoo verify`
rows     all LoRAs, shard by shard
nearest  the five nearest to a LoRA, as `lorasynth zoo nearest`
resize   to rank 1, as `lorasynth zoo resize`
known    what an import reads before it goes on
missing  who of as many people again has no LoRA yet, as a build asks before each shard
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo.importing.known import Known
from lorasynth.zoo.nearest import nearest_items
from lorasynth.zoo.resize import resize_zoo
from lorasynth.zoo.store import Zoo
from lorasynth.zoo.verify import verify

SHARD = 256
LAYOUT = Layout(
    base="made",
    modules=tuple(Module(name=f"blocks.{i}.to_q", in_features=128, out_features=128, rank=2) for i in range(8)),
)


def made(folder: Path, size: int) -> None:
    """A zoo of so many LoRAs of random numbers, through the zoo's own writer."""
    zoo = Zoo.create(folder, LAYOUT, {"made": size}, None)
    g = torch.Generator().manual_seed(0)
    for first in range(0, size, SHARD):
        persons = list(range(first, min(first + SHARD, size)))
        rows = 0.1 * torch.randn(len(persons), LAYOUT.num_parameters, generator=g)
        faces = torch.randn(len(persons), 1, 32, generator=g)
        zoo.append(None, persons, ["train"] * len(persons), rows, faces, "made", "CC0-1.0")


def calls(folder: Path, size: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    lora = LoRA.random(LAYOUT, seed=1, std=0.1)
    other = folder.with_name("resized")

    def rows() -> None:
        zoo = Zoo.open(folder)
        for shard in sorted(zoo.shard_names):
            zoo.rows(shard)

    def resize() -> None:
        resize_zoo(Zoo.open(folder), other, 1, report=lambda _: None)
        shutil.rmtree(other)

    def missing() -> None:
        ledger = Zoo.open(folder).ledger
        for first in range(0, 2 * size, SHARD):
            ledger.refresh()
            ledger.missing(range(first, first + SHARD))

    return {
        "open": lambda: Zoo.open(folder), "info": lambda: verify(folder, hashes=False), "verify": lambda: verify(folder),
        "rows": rows, "nearest": lambda: nearest_items(Zoo.open(folder), lora), "resize": resize,
        "known": lambda: Known.of(Zoo.open(folder)), "missing": missing,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 4_000, 16_000, 64_000], help="LoRAs")
    parser.add_argument("--json", type=Path, help="write the seconds there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as temporary:
        for size in options.sizes:
            folder = Path(temporary) / f"{size}"
            start = time.process_time()
            made(folder, size)
            seconds.setdefault("append", []).append(time.process_time() - start)
            for name, call in calls(folder, size).items():
                start = time.process_time()
                call()
                seconds.setdefault(name, []).append(time.process_time() - start)
            print(
                f"{size} LoRAs: {', '.join(f'{name} {times[-1]:.2f} s' for name, times in seconds.items())}", flush=True
            )
    for name, times in seconds.items():
        pairs = zip(options.sizes, options.sizes[1:], times, times[1:], strict=False)
        exponents = [math.log(after / before) / math.log(more / fewer) for fewer, more, before, after in pairs]
        print(f"{name:8} exponent {' '.join(f'{exponent:.2f}' for exponent in exponents)}")
    if options.json:
        options.json.write_text(json.dumps({"sizes": options.sizes, "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
