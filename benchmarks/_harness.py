"""Interleaved timing on one thread: A B A B …, medians of process CPU time, one line and one JSON record a benchmark."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_num_threads(1)


def compare(
    name: str,
    ours: Callable[[], object],
    other: Callable[[], object],
    *,
    per_ours: float = 1,
    per_other: float = 1,
    runs: int = 5,
) -> tuple[float, float, float]:
    """Print how many times less CPU time ours takes than the other, per unit of work, and append it to out/bench.jsonl.

    Args:
        name: of the benchmark.
        ours: does ``per_ours`` units of work.
        other: does ``per_other`` units of work.
        per_ours: units.
        per_other: units.
        runs: counted pairs, after one that is not.

    Returns:
        The ratio, and the CPU seconds a unit of ours and of the other.
    """
    times: dict[str, list[float]] = {"ours": [], "other": []}
    for run in range(runs + 1):
        for side, work, units in (("ours", ours, per_ours), ("other", other, per_other)):
            start = time.process_time()
            work()
            if run:
                times[side].append((time.process_time() - start) / units)
    a, b = statistics.median(times["ours"]), statistics.median(times["other"])
    record(name, b / a, a, b, runs)
    return b / a, a, b


def record(name: str, ratio: float, ours_s: float, other_s: float, runs: int, note: str = "") -> None:
    """Print a measured ratio with the CPU seconds of both sides, and append it to out/bench.jsonl."""
    said = f"; {note}" if note else ""
    print(
        f"{name} ratio={ratio:.2f} (ours {ours_s * 1e3:.3f} ms, other {other_s * 1e3:.3f} ms, runs {runs}{said})",
        flush=True,
    )
    out = Path("out")
    out.mkdir(exist_ok=True)
    with (out / "bench.jsonl").open("a") as file:
        entry = {"name": name, "ratio": ratio, "ours_s": ours_s, "other_s": other_s, "runs": runs, "note": note}
        file.write(json.dumps(entry) + "\n")
