"""Many processes fill one zoo, are killed over and over, and it comes out as one process that nobody killed makes it.

Training is a stand-in of a few milliseconds; the store, the leases and the loop are the real ones. LORASYNTH_SOAK=64000,200 does
it with so many items and kills (``make soak``).
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lorasynth.workers.helpers import helpers
from lorasynth.zoo import Zoo
from lorasynth.zoo.filling import fill
from lorasynth.zoo.ledger import Ledger
from lorasynth.zoo.verify import verify

from .planted import contents, killed_at, layout

WORKERS = 8
BANK = 8
EXPIRES_AFTER_S = 5.0
FORK = multiprocessing.get_context("fork")


def make(persons):
    """Trains people, in a way: some work, whose outcome each decides alone."""
    busy_until = time.monotonic() + random.uniform(0.001, 0.005)
    while time.monotonic() < busy_until:
        pass
    vectors = torch.stack(
        [torch.randn(layout().num_parameters, generator=torch.Generator().manual_seed(person)) for person in persons]
    )
    return vectors, vectors[:, :16].reshape(-1, 2, 8)


def build(folder, items):
    """As `lorasynth.zoo.build.build_zoo` does it."""
    zoo = Zoo.create(folder, layout(), {"rank": 2}, torch.linspace(-1, 1, layout().num_parameters))
    banks = {f"shard-{k:05d}": range(k * BANK, (k + 1) * BANK) for k in range(-(-items // BANK))}
    return fill(
        zoo, banks, make, split=lambda person: "train", source="made", licence="CC0", expires_after_s=EXPIRES_AFTER_S
    )


def worker(folder, items, pids):
    torch.set_num_threads(1)
    random.seed(os.getpid())
    (pids / str(os.getpid())).touch()
    build(folder, items)


def coordinator(folder, items, pids, workers):
    """As `build_zoo_with_workers` does it."""
    with helpers(workers - 1, worker, folder, items, pids, method="fork"):
        worker(folder, items, pids)


def running(pids):
    """Those of some processes that are at work."""

    def state(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # the second, where it ends while it is read
            return "X"

    return [int(path.name) for path in pids.iterdir() if state(path.name) not in "ZX"]


def one_worker(folder, items):
    process = FORK.Process(target=build, args=(folder, items))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


def digests(folder):
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}


def kill_and_build(tmp_path, items, kills):
    """Build a zoo with workers that are killed ``kills`` times, spread over the work; returns how many of these coordinated."""
    folder, pids, chance, coordinators = tmp_path / "many", tmp_path / "pids", random.Random(0), []
    pids.mkdir()
    Zoo.create(folder, layout(), {"rank": 2}, torch.linspace(-1, 1, layout().num_parameters))
    ledger, killed = Ledger(folder), {"worker": 0, "coordinator": 0}

    def start():
        missing = WORKERS - len(running(pids))
        if missing > 0:
            coordinators.append(FORK.Process(target=coordinator, args=(folder, items, pids, missing)))
            coordinators[-1].start()

    def kill(coordinating):
        """Helpers of a coordinator who was killed just now end in between."""
        while True:
            leading, alive = [process.pid for process in coordinators], running(pids)
            if wanted := [pid for pid in alive if (pid in leading) == coordinating] or alive:
                pid = chance.choice(wanted)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return "coordinator" if pid in leading else "worker"
            start()
            time.sleep(0.005)

    try:
        for number in range(1, kills + 1):
            start()
            while ledger.refresh() or len(ledger.persons) < items * number / (kills + 2):
                time.sleep(0.005)
                if not running(pids):
                    start()
            time.sleep(chance.uniform(0, 0.03))
            killed[kill(coordinating=number % 4 == 0)] += 1
        while running(pids):
            time.sleep(0.02)
    finally:
        for pid in running(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in coordinators:
            process.join()
    return folder, killed


@pytest.mark.slow
def test_kill_at_each_change_is_finished_to_the_same_bytes(tmp_path):
    whole, folder, number = digests(one_worker(tmp_path / "one", 3 * BANK)), tmp_path / "many", 1
    while killed_at(number, folder, lambda: build(folder, 3 * BANK)):
        assert digests(one_worker(folder, 3 * BANK)) == whole, number
        assert not (folder / ".leases").exists(), number
        shutil.rmtree(folder)
        number += 1
    assert number > 40
    assert verify(tmp_path / "one").faults == []


def wait_long(started):
    (started / str(os.getpid())).touch()
    time.sleep(3600)


def lead_for_long(started, number):
    with helpers(number, wait_long, started, method="fork"):
        time.sleep(3600)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_helpers_end_when_who_started_them_is_killed(tmp_path, how):
    leader = FORK.Process(target=lead_for_long, args=(tmp_path, 3))
    leader.start()
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.01)
    assert len(running(tmp_path)) == 3
    os.kill(leader.pid, how)
    leader.join()
    while running(tmp_path):  # they would work for an hour: the time limit of every test says that they do not end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_zoo_of_killed_workers_is_that_of_one_worker(tmp_path):
    items, kills = map(int, os.environ.get("LORASYNTH_SOAK", "2000,50").split(","))
    begun = time.monotonic()
    folder, killed = kill_and_build(tmp_path, items, kills)
    took_s = time.monotonic() - begun
    assert sum(killed.values()) == kills
    assert killed["coordinator"] >= kills // 10
    # The same command again finishes what is left, if anything is.
    again = one_worker(folder, items)
    ids = [json.loads(line)["id"] for line in (again / "manifest.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == items
    assert verify(again).faults == []
    alone = one_worker(tmp_path / "one", items)
    assert digests(again) == digests(alone)
    assert {p.name for p in again.iterdir()} == {p.name for p in alone.iterdir()}
    print(
        f"{items} items, {WORKERS} workers, {killed} killed: {took_s:.0f} s, {time.monotonic() - begun:.0f} s with checks"
    )
