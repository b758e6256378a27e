"""A folder of photographs prepared by several processes that are killed over and over, against one that nobody kills.

    python benchmarks/prepare_photos.py --people 2000 --photos 10 --kills 20 --workers 2

Prints one line of JSON: photos, seconds of both ways, kills, and whether every byte is the same. Photographs are drawn portraits,
embedded by their world's encoder and encoded by its picture VAE.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from lorasynth.drawn.export import export_people
from lorasynth.gallery.prepare import prepare, vae_fingerprint
from lorasynth.opening import open_base, open_encoder, open_photos
from lorasynth.worlds.world import get_domain

EXPIRES_AFTER_S = 5.0


def work(people: str, folder: str) -> None:
    torch.set_num_threads(1)
    base = open_base("portraits")
    of_base = (vae_fingerprint(base.pipe.vae), base.picture_size, base.encode)
    prepare(open_photos(people), open_encoder("portraits"), Path(folder), base=of_base, expires_after_s=EXPIRES_AFTER_S)


def start(*arguments: str) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    return process


def killed(people: str, folder: str, workers: int, kills: int, every_s: float) -> float:
    """Seconds until the folder is whole."""
    begun, dice, done = time.monotonic(), random.Random(0), 0
    running = [start(people, folder) for _ in range(workers)]
    while done < kills and any(process.is_alive() for process in running):
        time.sleep(dice.uniform(0.5, 1.5) * every_s)
        victim = dice.randrange(workers)
        if running[victim].is_alive():
            os.kill(running[victim].pid or 0, signal.SIGKILL)
            done += 1
        running[victim].join()
        running[victim] = start(people, folder)
    for process in running:
        process.join()
    return time.monotonic() - begun


def contents(folder: str) -> dict[str, bytes]:
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=2_000)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every-s", type=float, default=20.0, help="Seconds between kills, in the mean.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        people, whole, torn = (f"{place}/{name}" for name in ("people", "whole", "torn"))
        export_people(get_domain("portraits"), asked.people, asked.photos, Path(people), size=64)
        begun = time.monotonic()
        alone = start(people, whole)
        alone.join()
        alone_s = time.monotonic() - begun
        killed_s = killed(people, torn, asked.workers, asked.kills, asked.every_s)
        record = {
            "photos": asked.people * asked.photos, "workers": asked.workers, "kills": asked.kills,
            "alone_s": round(alone_s, 1), "killed_s": round(killed_s, 1), "same_bytes": contents(whole) == contents(torn),
        }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
