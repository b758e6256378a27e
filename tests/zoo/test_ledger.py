"""A manifest that is read as it grows, and shards that are in it with all their lines or with none."""

import multiprocessing
import os
import resource
import signal

import pytest
import torch

from lorasynth.errors import UsageError, ZooError
from lorasynth.zoo import Zoo
from lorasynth.zoo.forget import forget_person
from lorasynth.zoo.ledger import Ledger
from lorasynth.zoo.manifest import put_in_order, read_manifest
from lorasynth.zoo.report import LEFTOVER
from lorasynth.zoo.verify import verify

from .planted import contents, layout, make_zoo


@pytest.fixture
def zoo(tmp_path):
    return make_zoo(tmp_path / "zoo")


def append(zoo, number, persons, **options):
    rows = torch.arange(1.0, 1 + len(persons))[:, None] * torch.ones(1, layout().num_parameters)
    faces = torch.ones(len(persons), 2, 8)
    zoo.append(f"shard-{number:05d}", persons, ["train"] * len(persons), rows, faces, "made", "CC0", **options)


def state(ledger):
    ledger.refresh()
    return ledger.persons, ledger.forgotten, ledger.shards, ledger._ids


def test_it_knows_what_the_manifest_says(zoo):
    persons, forgotten, shards, ids = state(Ledger(zoo.folder))
    assert persons == {item.person for item in zoo.items}
    assert forgotten == zoo.forgotten_persons == {99}
    assert shards == zoo.shard_names
    assert {id.decode().strip('"') for id in ids} == {item.id for item in zoo.items}


def test_kept_up_to_date_it_says_what_a_new_one_says(zoo):
    kept = Ledger(zoo.folder)
    for number in range(10, 14):
        append(Zoo.open(zoo.folder), number, [number * 2, number * 2 + 1])
        assert state(kept) == state(Ledger(zoo.folder))
    forget_person(zoo.folder, 22)  # replaces the manifest
    assert state(kept) == state(Ledger(zoo.folder))
    put_in_order(zoo.folder)
    append(Zoo.open(zoo.folder), 20, [50])
    assert state(kept) == state(Ledger(zoo.folder))
    (zoo.folder / "manifest.jsonl").unlink()
    assert state(kept) == (set(), set(), set(), set())


def test_to_look_again_is_to_read_what_was_added(zoo, monkeypatch):
    """By what is read, not by seconds: the last line again, and the new ones."""
    ledger, manifest = Ledger(zoo.folder), zoo.folder / "manifest.jsonl"
    sizes, read = [], Ledger._read
    monkeypatch.setattr(Ledger, "_read", lambda self: sizes.append(len(added := read(self))) or added)
    ledger.refresh()
    assert sizes.pop() == manifest.stat().st_size
    for number in range(10, 13):
        before = manifest.stat().st_size
        append(zoo, number, [number])
        sizes.clear()
        ledger.refresh()
        ledger.refresh()
        assert sizes == [manifest.stat().st_size - before, 0]


def test_file_of_same_number_that_is_not_same_is_read_anew(zoo):
    """The system gives the number of a file that was replaced to another one, at times."""
    ledger = Ledger(zoo.folder)
    ledger.refresh()
    manifest = zoo.folder / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:3]) + lines[4])  # in place
    assert state(ledger) == state(Ledger(zoo.folder))


@pytest.mark.parametrize("what", ["an item", "a shard", "somebody forgotten"])
def test_what_may_not_come_in_is_refused_before_byte_is_written(zoo, what):
    """The shard above all: it would take the place of the one that is there."""
    before, opened = contents(zoo.folder), Zoo.open(zoo.folder)
    number, persons, ids = {
        "an item": (0, [77], ["item-00"]),
        "a shard": (0, [77], ["new"]),
        "somebody forgotten": (9, [99], ["new"]),
    }[what]
    with pytest.raises(ZooError, match=r"expected (a new item|a new shard|people who may be in it), got"):
        append(opened, number, persons, ids=ids)
    assert contents(zoo.folder) == before


@pytest.mark.slow
def test_writer_that_is_killed_in_middle_of_its_lines_left_none(tmp_path):
    """At each of many lengths: the system ends the process when its file grows beyond a limit, in the middle of a write."""
    zoo = Zoo.create(tmp_path / "zoo", layout(), {"rank": 2}, None)
    for number in range(4):
        append(zoo, number, [10 * number + n for n in range(8)])
    manifest = zoo.folder / "manifest.jsonl"
    before, size = manifest.read_bytes(), manifest.stat().st_size
    grown = size // 4  # of one shard's lines
    kept = Ledger(zoo.folder)

    def child(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        append(Zoo.open(zoo.folder), 9, [90 + n for n in range(8)])

    for limit in range(size, size + grown - 50, grown // 23):
        process = multiprocessing.get_context("fork").Process(target=child, args=(limit,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGXFSZ, limit
        assert (manifest.stat().st_size, manifest.read_bytes()[:size]) == (limit, before)
        assert len(Zoo.open(zoo.folder)) == 32
        assert {fault.code for fault in verify(zoo.folder).faults} <= {"torn-line", *LEFTOVER}
        assert state(kept) == state(Ledger(zoo.folder))
    append(Zoo.open(zoo.folder), 9, [90 + n for n in range(8)])
    assert verify(zoo.folder).faults == []
    assert len(Zoo.open(zoo.folder)) == 40
    assert state(kept)[0] == {item.person for item in Zoo.open(zoo.folder).items}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_disk_that_is_full_is_said_so_and_nothing_is_in(zoo, moment, monkeypatch):
    """At the shard's fsync, at that of its lines, and at that of the byte which makes them true."""
    calls, fsync = [], os.fsync

    def full(handle):
        if os.fstat(handle).st_mode & 0o170000 == 0o100000:  # a file, not a folder
            calls.append(handle)
            if len(calls) == moment:
                raise OSError(28, "No space left on device")
        fsync(handle)

    items = {item.id for item in zoo.items}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        append(zoo, 9, [70, 71])
    monkeypatch.undo()
    again = Zoo.open(zoo.folder)
    assert {item.id for item in again.items} - items in (set(), {"toy-70", "toy-71"})
    if moment < 3:
        assert len(again) == len(items)
        append(again, 9, [70, 71])
    assert verify(zoo.folder).faults == []
    assert len(Zoo.open(zoo.folder)) == len(items) + 2


def test_mark_among_lines_of_other_shards_is_damage(zoo):
    manifest = zoo.folder / "manifest.jsonl"
    content = manifest.read_bytes()
    at = content.index(b"\n", content.index(b"item-01")) + 1  # items of several shards follow
    manifest.write_bytes(content[:at] + b"\0" + content[at + 1 :])
    assert [line.number for line in read_manifest(zoo.folder).lines if line.record is None] == [4]
    append(zoo, 9, [70])
    assert manifest.read_bytes().startswith(content[:at] + b"\0" + content[at + 1 :])


def test_in_order_are_tombstones_and_then_items_by_shard_and_row(zoo):
    append(zoo, 9, [70, 71])
    append(zoo, 5, [60])
    sorted_before = read_manifest(zoo.folder).lines
    put_in_order(zoo.folder)
    assert [item.shard for item in Zoo.open(zoo.folder).items][-3:] == ["shard-00005", "shard-00009", "shard-00009"]
    assert {line.raw for line in read_manifest(zoo.folder).lines} == {line.raw for line in sorted_before}
    before = (zoo.folder / "manifest.jsonl").stat()
    put_in_order(zoo.folder)
    now = (zoo.folder / "manifest.jsonl").stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
