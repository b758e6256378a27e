"""Building a zoo on machines that are taken away: wall time and lost work, simulated, and held against a real run.

    python benchmarks/preemption.py                  # a real run of the leases with killed processes, and its prediction
    python benchmarks/preemption.py --plan           # lease length against mean time to preemption, for a build of a million

The model. Each machine takes the next bank that nobody has, for ``bank`` seconds, and stores it. It is taken away at random,
exponentially with mean ``preempted``, and another one stands in its place after ``back`` seconds. What it was at is lost, and
free for others as soon as its lease has expired: 0.9 to 1 of ``lease`` after it died, as a tenth of it is the time between two
signs of life. A machine that starts while there are such leases waits two tenths, to see whether their locks reach it.

The real run. Each machine is a process under a host name of its own, so that nobody takes its free lock for its death; it is
killed by SIGKILL, and another one started. Leases, manifest and shards are the project's own; training is a sleep.
"""

import argparse
import heapq
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo.filling import fill
from lorasynth.zoo.store import Zoo

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build on machines that are taken away; all times in seconds."""

    machines: int
    banks: int
    bank: float  # to make and store a bank
    preempted: float  # mean time to preemption
    back: float  # until a machine is back at work
    lease: float  # for how long a lease's count stands still before it is given up


def simulate(build: Build, seed: int) -> dict[str, float]:
    """One build, event by event: its seconds, how many preemptions, and the part of the machines' work that was lost."""
    chance = random.Random(seed)
    free, done, clock = build.banks, 0, 0.0
    lost, preemptions = 0.0, 0
    life = [chance.expovariate(1 / build.preempted) for _ in range(build.machines)]  # when each is taken away next
    idle: set[int] = set()
    dead = 0  # leases of machines that are gone
    events: list[tuple[float, int, str, int]] = []
    for machine in range(build.machines):
        heapq.heappush(events, (0.0, machine, "ready", machine))
    number = build.machines

    def at(when: float, what: str, machine: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, what, machine))

    while done < build.banks:
        clock, _, what, machine = heapq.heappop(events)
        if what == "expired":
            free, dead = free + 1, dead - 1
            if idle:
                at(clock, "ready", idle.pop())
            continue
        if what == "stored":
            done += 1
        if what == "back":
            life[machine] = clock + chance.expovariate(1 / build.preempted)
            if dead:
                idle.add(machine)  # at nothing, but may be taken away
                at(life[machine], "idle-gone", machine)
                at(clock + build.lease / 5, "looked", machine)
                continue
        if what == "looked" and machine not in idle:
            continue
        if what == "idle-gone" and machine not in idle:
            continue
        idle.discard(machine)
        if what == "idle-gone" or life[machine] <= clock:  # taken away between banks
            preemptions += 1
            at(clock + build.back, "back", machine)
        elif free == 0:  # waits for a lease to expire, or for the end
            idle.add(machine)
            at(life[machine], "idle-gone", machine)
        elif life[machine] < clock + build.bank:  # taken away in the middle
            free, dead = free - 1, dead + 1
            preemptions += 1
            lost += life[machine] - clock
            at(life[machine] + build.back, "back", machine)
            at(life[machine] + build.lease * chance.uniform(0.9, 1.0), "expired", machine)
        else:
            free -= 1
            at(clock + build.bank, "stored", machine)
    return {"seconds": clock, "preemptions": float(preemptions), "lost": lost / (lost + build.banks * build.bank)}


def expected(build: Build) -> float:
    """Seconds in closed form, without the end, where machines wait for the last leases.

    A bank is begun anew until nobody interrupts it: T (exp(b / T) - 1) of machine time; a machine works T of T + r.
    """
    T, b, r = build.preempted, build.bank, build.back
    return build.banks / build.machines * T * (torch.tensor(b / T).expm1().item()) * (T + r) / T


def layout() -> Layout:
    """Of the stand-in for LoRAs."""
    return Layout(base="none", modules=(Module(name="a", in_features=16, out_features=16, rank=2),))


def machine_at_work(folder: Path, build: Build) -> None:
    """A machine of a name of its own, until all is done."""
    torch.set_num_threads(1)
    socket.gethostname = lambda: f"machine-{os.getpid()}"  # type: ignore[assignment]

    def make(persons: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(build.bank)
        vectors = torch.ones(len(persons), layout().num_parameters) * torch.tensor(persons)[:, None] / 1e3
        return vectors, vectors[:, :8].reshape(-1, 1, 8)

    fill(
        Zoo.open(folder), {f"shard-{k:05d}": [2 * k, 2 * k + 1] for k in range(build.banks)}, make,
        split=lambda person: "train", source="made", licence="CC0", expires_after_s=build.lease,
    )  # fmt: skip


def run(build: Build, seed: int) -> dict[str, float]:
    """One build by processes that are killed; raises if anybody is missing or doubled."""
    killed, over = [], threading.Event()

    def keep(number: int) -> None:
        """Start a machine, take it away, bring it back, until it ends by itself."""
        chance = random.Random(1000 * seed + number)
        while not over.is_set():
            process = FORK.Process(target=machine_at_work, args=(folder, build))
            process.start()
            process.join(min(chance.expovariate(1 / build.preempted), 1e6))
            if process.exitcode is not None:
                over.set()
                if process.exitcode != 0:
                    raise SystemExit(f"a machine ended with code {process.exitcode}")
                return
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            killed.append(number)
            over.wait(build.back)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "zoo"
        Zoo.create(folder, layout(), {}, torch.zeros(layout().num_parameters))
        keepers = [threading.Thread(target=keep, args=(number,)) for number in range(build.machines)]
        begun = time.monotonic()
        for keeper in keepers:
            keeper.start()
        over.wait()
        took = time.monotonic() - begun
        for keeper in keepers:
            keeper.join()
        persons = sorted(item.person for item in Zoo.open(folder).items)
    if persons != list(range(2 * build.banks)):
        raise SystemExit(f"expected {2 * build.banks} people once each, got {len(persons)}")
    return {"seconds": took, "preemptions": float(len(killed))}


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in words."""
    spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "? (one run)"
    return f"{statistics.mean(values):.1f} ± {spread}"


def check(build: Build, runs: int, out: Path | None) -> None:
    """Predict, then run."""
    calm = replace(build, preempted=1e9)
    # What a bank costs besides its sleep, on this machine now: from a run in which nobody is killed.
    cost = run(calm, 0)["seconds"] * build.machines / build.banks - build.bank
    told = replace(build, bank=build.bank + cost, back=build.back + cost)
    print(f"{build}; a bank's storing costs {cost * 1e3:.0f} ms", flush=True)
    predicted = [simulate(told, seed) for seed in range(1000)]
    measured = [run(build, seed) for seed in range(1, runs + 1)]
    for key in ("seconds", "preemptions"):
        print(f"{key}: predicted {spread([p[key] for p in predicted])}, measured {spread([m[key] for m in measured])}")
    lost = statistics.mean(p["lost"] for p in predicted)
    print(f"closed form {expected(told):.1f} s; part of the work lost: predicted {lost:.3f}")
    if out is not None:
        out.write_text(json.dumps({"cost_s": cost, "predicted": predicted, "measured": measured}, indent=2) + "\n")


def plan() -> None:
    """Bank and lease against mean time to preemption: 64 machines, a million SDXL LoRAs at 30.1 s (docs/results/scale.md)."""
    print("bank  preempted    lease    days  closed form  lost  preemptions")
    for loras in (32, 512):
        for hours in (1, 4, 24):
            for lease in (60.0, 600.0, 3_600.0):
                build = Build(
                    machines=64, banks=-(-1_000_000 // loras), bank=30.1 * loras, preempted=3_600.0 * hours, back=600.0,
                    lease=lease,
                )  # fmt: skip
                seen = [simulate(build, seed) for seed in range(3)]
                days, lost, taken = (statistics.mean(s[k] for s in seen) for k in ("seconds", "lost", "preemptions"))
                print(
                    f"{loras:4d}  {hours:7d} h  {lease:6.0f} s  {days / 86_400:6.2f}  {expected(build) / 86_400:11.2f}  "
                    f"{lost:4.2f}  {taken:11.0f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="Only simulate, a build of a million.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.plan:
        plan()
    else:
        check(
            Build(machines=8, banks=160, bank=0.4, preempted=3.0, back=0.5, lease=2.0), arguments.runs, arguments.json
        )


if __name__ == "__main__":
    main()
