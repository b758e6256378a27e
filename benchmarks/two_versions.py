"""A bank's step and a synthesis in this checkout against another one: CPU time, in turns, a process for each checkout.

    git clone . out/old && git -C out/old checkout COMMIT
    python benchmarks/two_versions.py out/old

A checkout's own `benchmarks/zoo_training.py` says what a bank's step is. Ratios above 1: this checkout is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
UNITS = {"bank": 1, "synthesis": 8}  # steps, or calls, of one measurement
BANK = (4, 8)  # people at once, a quarter of the recipe's, and photos of each
COUNT = "count"
"""Asks for the operations of a bank's step and their FLOPs, which no other work on the machine changes."""


def bank() -> Callable[[], object]:
    """A step of a bank on the shape of the shipped base, lora_A frozen."""
    import torch
    from zoo_training import BASES, bank_step, inputs

    from lorasynth.lora.layout import Layout

    torch.manual_seed(0)
    base, (n, b) = BASES["portraits"], BANK
    unet = base.build()
    return bank_step(unet, Layout.from_model(unet, base.targets, 4), n, inputs(base, n * b), "frozen")


def synthesis() -> Callable[[], object]:
    """Photo file -> LoRA file by the shipped synthesizer."""
    import torch

    from lorasynth.encoders.images import to_image
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.worlds.world import get_world

    # NOTE: the default of older checkouts is another model.
    shipped = get_world("portraits128").folder / "synthesizer"
    model, folder = Synthesizer.from_pretrained(shipped), Path(tempfile.mkdtemp())
    photo = folder / "photo.png"
    to_image(get_world("portraits").draw([7], [0], 256)[0]).save(photo)
    return lambda: model(photo).save(folder / "lora.safetensors", dtype=torch.float16, force=True)


def operations(step: Callable[[], object]) -> str:
    """How many operations torch is asked for, and their FLOPs."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Counter(TorchDispatchMode):
        asked = 0

        def __torch_dispatch__(self, function, _, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.asked += 1
            return function(*args, **(kwargs or {}))

    with Counter() as counter:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    return f"{counter.asked} operations, {flops.get_total_flops():,} FLOPs"


def work() -> None:
    """Answer each line, the name of what to do, with the CPU seconds of a unit."""
    import torch

    torch.set_num_threads(1)
    prepared = {"bank": bank(), "synthesis": synthesis()}
    for line in sys.stdin:
        name = line.strip()
        if name == COUNT:
            print(f"answer {operations(prepared['bank'])}", flush=True)
            continue
        start = time.process_time()
        for _ in range(UNITS[name]):
            prepared[name]()
        print(f"answer {(time.process_time() - start) / UNITS[name]}", flush=True)


def start(checkout: Path) -> subprocess.Popen[str]:
    """A process that works with a checkout."""
    path = os.pathsep.join(map(str, (checkout / "src", checkout / "benchmarks")))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, str(checkout), "--worker"]  # -P: nothing beside this file is imported
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(worker: subprocess.Popen[str], name: str) -> str:
    """What a worker answers: of a unit its CPU seconds.

    Raises:
        RuntimeError: the worker ended.
    """
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("answer "):
            return line.removeprefix("answer ").strip()
    raise RuntimeError(f"expected an answer to {name!r}, got the end of a worker; look at what it printed")


def main() -> None:
    """Print a ratio for each work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work()
        return
    workers = {"other": start(given.other.resolve()), "ours": start(HERE)}
    for side, worker in workers.items():
        print(f"bank, {side}: {ask(worker, COUNT)}", flush=True)
    for name in UNITS:
        times: dict[str, list[float]] = {side: [] for side in workers}
        for pair in range(given.pairs + 1):
            for side in sorted(workers, reverse=pair % 2 == 1):  # who begins takes turns, too
                seconds = float(ask(workers[side], name))
                if pair:
                    times[side].append(seconds)
        ratios = sorted(a / b for a, b in zip(times["other"], times["ours"], strict=True))
        quarter, _, last = statistics.quantiles(ratios, n=4)
        ours, other = (statistics.median(times[side]) * 1e3 for side in ("ours", "other"))
        print(
            f"{name}: ratio {statistics.median(ratios):.3f} of {given.pairs} pairs (middle half {quarter:.3f} to {last:.3f}); "
            f"ours {ours:.1f} ms, other {other:.1f} ms",
            flush=True,
        )
    for worker in workers.values():
        worker.terminate()


if __name__ == "__main__":
    main()
