"""Who works on what: one at a time where all is well, nobody for good where an owner is gone, and never an item twice."""

import fcntl
import json
import multiprocessing
import os
import signal
import time

import pytest
import torch

from lorasynth.errors import UsageError, ZooError
from lorasynth.workers.leases import Leases
from lorasynth.workers.sharing import require_shareable
from lorasynth.zoo import Zoo
from lorasynth.zoo.build import build_zoo_with_workers
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.filling import fill
from lorasynth.zoo.verify import verify

from ..zoo.planted import layout

FORK = multiprocessing.get_context("fork")
SOON_S = 0.4


def begin(folder):
    return Zoo.create(folder, layout(), {"rank": 2}, torch.zeros(layout().num_parameters))


def rows(value, count=2):
    return torch.full((count, layout().num_parameters), float(value)), torch.ones(count, 2, 8)


def fill_one(folder, make, **options):
    """A zoo of one bank of two people."""
    return fill(
        begin(folder), {"shard-00000": [1, 2]}, make, split=lambda _: "train", source="made", licence="CC0", **options
    )  # fmt: skip


def owner(folder, connection, name="work"):
    """A process that takes a lease, says so, and never gives it back."""
    with Leases(folder, expires_after_s=SOON_S).claim([name]):
        connection.send("claimed")
        time.sleep(100)


@pytest.fixture
def owned(tmp_path):
    """A lease's owner, another process."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=owner, args=(tmp_path, there))
    process.start()
    assert here.recv() == "claimed"
    yield process
    process.kill()
    process.join()


def test_what_one_has_no_other_gets_until_it_is_given_back(tmp_path):
    one, other = Leases(tmp_path), Leases(tmp_path)
    with one.claim(["a", "b"]) as lease:
        assert lease.name == "a"
        assert other.claim(["a"]) is None
        assert one.claim(["a"]) is None
        with other.claim(["a", "b"]) as next_lease:
            assert next_lease.name == "b"
    with other.claim(["a"]) as lease:
        assert lease.name == "a"
    assert list((tmp_path / ".leases").iterdir()) == []


def test_many_processes_that_want_the_same_get_each_once(tmp_path):
    def work(connection):
        mine, taken = Leases(tmp_path), []
        for name in map(str, range(40)):
            if lease := mine.claim([name]):
                taken.append(lease)  # and kept
        connection.send([lease.name for lease in taken])
        connection.recv()

    pipes = [FORK.Pipe() for _ in range(6)]
    processes = [FORK.Process(target=work, args=(there,)) for _, there in pipes]
    for process in processes:
        process.start()
    taken = [name for here, _ in pipes for name in here.recv()]
    for here, _ in pipes:
        here.send("done")
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(taken, key=int) == [str(n) for n in range(40)]


def test_owner_who_works_for_long_keeps_it(owned, tmp_path):
    other, until = Leases(tmp_path, expires_after_s=SOON_S), time.monotonic() + 4 * SOON_S
    while time.monotonic() < until:
        assert other.claim(["work"]) is None
        time.sleep(SOON_S / 10)


def test_of_an_owner_who_was_killed_it_is_free_at_once(owned, tmp_path):
    patient = Leases(tmp_path, expires_after_s=1e9)
    assert patient.claim(["work"]) is None
    owned.kill()
    owned.join()
    with patient.claim(["work"]) as lease:
        assert lease.name == "work"
        assert Leases(tmp_path).claim(["work"]) is None
    assert list((tmp_path / ".leases").iterdir()) == []


def test_of_an_owner_who_is_halted_it_is_free_after_a_while(owned, tmp_path):
    os.kill(owned.pid, signal.SIGSTOP)
    other, begun = Leases(tmp_path, expires_after_s=SOON_S), time.monotonic()
    while (lease := other.claim(["work"])) is None:
        time.sleep(0.01)
    assert time.monotonic() - begun >= SOON_S
    with lease:
        os.kill(owned.pid, signal.SIGCONT)  # and it notices, and lets it be
        assert Leases(tmp_path, expires_after_s=SOON_S).claim(["work"]) is None


def test_lease_without_a_word_is_free_soon_and_not_at_once(tmp_path, monkeypatch):
    """Its owner died between making the file and writing to it. The clock is the test's own: a busy machine changes nothing."""
    (tmp_path / ".leases").mkdir()
    (tmp_path / ".leases" / "work.0").touch()
    other, now = Leases(tmp_path, expires_after_s=100.0), [0.0]
    monkeypatch.setattr("lorasynth.workers.leases.time.monotonic", lambda: now[0])
    assert other.claim(["work"]) is None
    now[0] = other.renew_every_s  # a tenth of the time after which a silent owner is given up
    assert other.claim(["work"]) is None
    now[0] += 0.1
    with other.claim(["work"]) as lease:
        assert lease.name == "work"


def of_another_machine(folder, count, *, locked, name="work"):
    """Write a lease as its owner on another machine does; gives the open file."""
    path = folder / ".leases" / f"{name}.0"
    path.parent.mkdir(exist_ok=True)
    file = path.open("r+b" if path.exists() else "x+b")
    if locked:
        fcntl.flock(file, fcntl.LOCK_EX)
    record = {"owner": "ff", "process": 7, "host": "pluto", "count": count}
    os.pwrite(file.fileno(), json.dumps(record).encode() + b"\n", 0)
    return file


def test_lease_of_another_machine_is_free_when_it_stands_still(tmp_path):
    """Without a lock too: that machine may be gone, or the server has let go of it."""
    with of_another_machine(tmp_path, 3, locked=False):
        mine, begun = Leases(tmp_path, expires_after_s=SOON_S), time.monotonic()
        while (lease := mine.claim(["work"])) is None:
            time.sleep(0.01)
        assert time.monotonic() - begun >= SOON_S
        with lease:
            pass


def test_locks_that_reach_no_other_machine_are_found_first(tmp_path):
    """Its count grows, so it lives, and its lock is not seen: two machines would write to the manifest at once."""

    def live():
        for count in range(1000):
            of_another_machine(tmp_path, count, locked=False).close()
            time.sleep(0.01)

    begin(tmp_path)
    process = FORK.Process(target=live)
    process.start()
    try:
        while not (tmp_path / ".leases" / "work.0").exists():
            time.sleep(0.01)
        with pytest.raises(ZooError, match="expected locks that reach all machines that work here, got none of pluto"):
            fill_one(tmp_path, lambda persons: pytest.fail("trained"), expires_after_s=1.0)
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "manifest.jsonl").exists()


def test_locks_of_another_machine_that_are_seen_are_right(tmp_path):
    mine = Leases(tmp_path, expires_after_s=SOON_S)
    for count in range(3):
        with of_another_machine(tmp_path, count, locked=True):
            mine.require_locks_that_reach()
            assert mine.claim(["work"]) is None


# A clock that jumps, leases that expire twice: the manifest decides.


def test_clocks_that_jump_change_nothing(owned, tmp_path, monkeypatch):
    other = Leases(tmp_path, expires_after_s=1e9)
    for jump in (-1e9, 1e9, 0.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
        os.utime(tmp_path / ".leases" / "work.0", (1.7e9 - jump, 1.7e9 - jump))
        assert other.claim(["work"]) is None


def test_lease_that_expired_twice_gives_no_item_twice(tmp_path):
    """Two owners are halted in the middle of their training, a third one finishes, and then they go on, with other numbers."""
    folder, children = tmp_path / "zoo", []
    begin(folder)

    def halted(value, connection):
        def make(persons):
            connection.send("training")
            os.kill(os.getpid(), signal.SIGSTOP)
            return rows(value, len(persons))

        done = fill_one(folder, make, expires_after_s=SOON_S)
        connection.send(len(done))

    for value in (1, 2):
        here, there = FORK.Pipe()
        process = FORK.Process(target=halted, args=(value, there))
        process.start()
        assert here.recv() == "training"
        children.append((process, here))
    assert len(list((folder / ".leases").iterdir())) == 2
    zoo = fill_one(folder, lambda persons: rows(3, len(persons)), expires_after_s=SOON_S)
    before = (folder / "shard-00000.safetensors").read_bytes()
    for process, here in children:
        os.kill(process.pid, signal.SIGCONT)
        assert here.recv() == 2
        process.join()
        assert process.exitcode == 0
    assert (folder / "shard-00000.safetensors").read_bytes() == before
    assert [item.id for item in Zoo.open(folder).items] == [item.id for item in zoo.items] == ["toy-1", "toy-2"]
    assert zoo.load()[1].unique().tolist() == [3.0]
    assert verify(folder).faults == []
    assert not (folder / ".leases").exists()


def test_person_forgotten_in_training_stays_out_alone(tmp_path):
    from lorasynth.zoo.forget import forget_person

    folder, trained = tmp_path / "zoo", []

    def make(persons):
        if not trained:
            begin(folder).append("shard-00007", [2], ["train"], *rows(9, 1), "made", "CC0", ids=["before"])
            forget_person(folder, 2)
        trained.append(persons)
        return rows(1, len(persons))

    zoo = fill_one(folder, make)
    assert trained == [[1, 2], [1]]
    assert [item.person for item in zoo.items] == [1]
    assert verify(folder).faults == []


def test_training_that_diverged_ends_build_and_frees_its_lease(tmp_path):
    with pytest.raises(ZooError, match="is not finite"):
        fill_one(tmp_path, lambda persons: rows(float("nan"), len(persons)))
    assert list((tmp_path / ".leases").iterdir()) == []
    assert len(fill_one(tmp_path, lambda persons: rows(1, len(persons)))) == 2


# File systems that are not fit for it.


def open_without_exclusion(path, flags, *arguments, real=os.open, **options):
    """As on a file system that does not know O_EXCL."""
    return real(path, flags & ~os.O_EXCL, *arguments, **options)


def test_folder_on_a_disk_can_be_shared(tmp_path):
    require_shareable(tmp_path / "new" / ".leases")
    assert list((tmp_path / "new" / ".leases").iterdir()) == []


@pytest.mark.parametrize("lacking", ["O_EXCL", "flock", "flock at all"])
def test_several_workers_are_refused_where_nothing_is_shared(tmp_path, monkeypatch, lacking):
    def no_lock(*_):
        if lacking == "flock at all":
            raise OSError(38, "Function not implemented")

    if lacking == "O_EXCL":
        monkeypatch.setattr(os, "open", open_without_exclusion)
    else:
        monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(ZooError, match=rf"without (files|locks) .*\({lacking.split()[0]}\); build with one worker"):
        build_zoo_with_workers(ZooConfig(), str(tmp_path / "zoo"), 2, report=lambda _: None)
    assert list((tmp_path / "zoo" / ".leases").iterdir()) == []


def test_zoo_without_locks_is_refused_by_naming_them(tmp_path, monkeypatch):
    def no_lock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(UsageError, match=r"cannot be locked \(Function not implemented\); mount it with locks"):
        begin(tmp_path)


def test_folder_that_cannot_be_written_is_said_so(in_a_closed_folder):
    def refused(folder):
        with pytest.raises(UsageError, match="cannot be written"):
            require_shareable(folder / ".leases")
        with pytest.raises(UsageError, match="cannot be written"):
            Leases(folder).claim(["work"])

    in_a_closed_folder(refused)


FOREIGN = {
    "notes": lambda p: p.with_name("notes.txt").write_text("x"),
    "an editor's copy": lambda p: p.with_name("work.0~").write_text("x"),
    "a folder": lambda p: p.mkdir(),
    "a pipe": os.mkfifo,
    "a link in a circle": lambda p: p.symlink_to(p.name),
    "a high number": lambda p: p.with_name("work.999999999999").mkdir(),
    "a number of other digits": lambda p: p.with_name("work.\u0662").write_text("x"),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_among_leases_hold_no_work(tmp_path, make):
    (tmp_path / ".leases").mkdir()
    make(tmp_path / ".leases" / "work.0")
    leases, there = Leases(tmp_path), set(os.listdir(tmp_path / ".leases"))
    leases.require_locks_that_reach()
    for _ in range(2):
        lease = leases.claim(["work"])
        assert lease is not None
        with lease:
            assert Leases(tmp_path).claim(["work"]) is None
    assert set(os.listdir(tmp_path / ".leases")) <= there


def test_file_in_the_place_of_the_leases_is_named(tmp_path):
    (tmp_path / ".leases").write_text("x")
    with pytest.raises(UsageError, match=r"\.leases: expected a folder for leases, got something else; move it away"):
        Leases(tmp_path).claim(["work"])
