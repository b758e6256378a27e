"""Somebody who was forgotten is in no file any more, whatever happens in the middle of it, and does not come back."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lorasynth.cli import main
from lorasynth.errors import LorasynthError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.zoo import Zoo, build, materials
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.forget import forget_person
from lorasynth.zoo.importing.candidates import candidates_of
from lorasynth.zoo.importing.importer import import_zoo
from lorasynth.zoo.importing.pairing import find_loras, pair_by_name, person_number
from lorasynth.zoo.manifest import read_manifest, to_line
from lorasynth.zoo.repair import repair_zoo
from lorasynth.zoo.report import LEFTOVER
from lorasynth.zoo.resize import resize_zoo
from lorasynth.zoo.verify import verify

from .planted import contents, kill_at, killed_at, layout, make_zoo, restore, stored


@pytest.fixture
def zoo(tmp_path):
    return make_zoo(tmp_path / "zoo")


def bytes_of(zoo, person):
    ids = {item.id for item in zoo.items if item.person == person}
    return [part for id, parts in stored(zoo.folder).items() if id in ids for part in parts]


def found_in(folder, needles):
    return [name for name, content in contents(folder).items() for needle in needles if needle in content]


def test_person_leaves_no_byte_and_everybody_else_stays_to_byte(zoo):
    theirs, before = bytes_of(zoo, 12), stored(zoo.folder)
    untouched = (zoo.folder / "shard-00001.safetensors").stat()
    assert len(found_in(zoo.folder, theirs)) == 4  # two items, each with embeddings
    done = forget_person(zoo.folder, 12)
    assert done.ids == ["item-01", "item-03"]
    assert done.items == 7
    assert done.rewritten == ["shard-00000"]
    assert found_in(zoo.folder, theirs) == []
    assert stored(zoo.folder) == {id: parts for id, parts in before.items() if id not in done.ids}
    assert verify(zoo.folder).faults == []
    now = (zoo.folder / "shard-00001.safetensors").stat()
    assert (now.st_ino, now.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)
    assert {t.forgotten for t in Zoo.open(zoo.folder).forgotten} == {99, 12}


def test_quarantine_and_temporary_files_go_with_them(zoo):
    theirs = bytes_of(zoo, 22)
    shard = zoo.folder / "shard-00001.safetensors"
    (zoo.folder / ".shard-00001.safetensors.x.part").write_bytes(shard.read_bytes())
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # of somebody else in the same shard, or of theirs: it is set aside whole
    shard.write_bytes(content)
    with pytest.raises(ZooError, match="expected a sound zoo to take somebody out of, got 1 faults"):
        forget_person(zoo.folder, 21)
    repair_zoo(zoo.folder)
    assert found_in(zoo.folder / "quarantine", theirs)
    forget_person(zoo.folder, 21)
    assert found_in(zoo.folder, theirs) == []
    assert not (zoo.folder / "quarantine").exists()


def test_forget_refuses_strangers_and_twice_is_once(zoo):
    with pytest.raises(ZooError, match="expected a person of the zoo, got 5, of whom nothing is there"):
        forget_person(zoo.folder, 5)
    number = person_number("ada")
    with pytest.raises(ZooError, match=rf"got 'ada' \(number {number}\), of whom nothing is there; see manifest"):
        forget_person(zoo.folder, "ada")
    forget_person(zoo.folder, 31)
    before = contents(zoo.folder)
    again = forget_person(zoo.folder, 31)
    assert (again.ids, again.rewritten, again.deleted) == (["item-20"], [], [])
    assert contents(zoo.folder) == before


@pytest.mark.parametrize("then", ["forget again", "repair, and forget again"])
@pytest.mark.slow
def test_killed_at_any_moment_it_can_be_finished(zoo, then):
    (zoo.folder / "quarantine").mkdir()
    (zoo.folder / "quarantine" / "shard-00007.safetensors").write_bytes(b"".join(bytes_of(zoo, 12)))
    (zoo.folder / "import.jsonl").write_text(
        '{"file": "twelve", "id": "item-01"}\n{"file": "eleven", "id": "item-00"}\n'
    )
    before, theirs, rows = contents(zoo.folder), bytes_of(zoo, 12), stored(zoo.folder)
    kept = {id: parts for id, parts in rows.items() if id not in ("item-01", "item-03")}
    number = 1
    while killed_at(number, zoo.folder, lambda: forget_person(zoo.folder, 12)):
        assert {fault.code for fault in verify(zoo.folder).faults} <= set(LEFTOVER), number
        now = stored(zoo.folder)
        assert now in (rows, kept), number
        if then.startswith("repair"):
            repair_zoo(zoo.folder)
            assert verify(zoo.folder).faults == [], number
            assert stored(zoo.folder) == now, number
        forget_person(zoo.folder, 12)
        assert verify(zoo.folder).faults == [], number
        assert stored(zoo.folder) == kept, number
        assert found_in(zoo.folder, [*theirs, b"twelve"]) == [], number
        restore(zoo.folder, before)
        number += 1
    assert number > 12


@pytest.mark.slow
def test_repair_killed_at_any_moment_can_be_finished(zoo):
    shard, manifest = zoo.folder / "shard-00000.safetensors", zoo.folder / "manifest.jsonl"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (zoo.folder / "shard-00001.safetensors").write_bytes(b"nothing")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    before, sound = contents(zoo.folder), {item.id for item in verify(zoo.folder).items}
    assert len(sound) == 5
    number = 1
    while killed_at(number, zoo.folder, lambda: repair_zoo(zoo.folder)):
        repair_zoo(zoo.folder)
        assert verify(zoo.folder).faults == [], number
        assert stored(zoo.folder).keys() == sound, number
        log = (zoo.folder / "quarantine" / "dropped.jsonl").read_text().splitlines()
        assert len(log) == 4, number
        now = contents(zoo.folder)
        for name in ("shard-00000.safetensors", "shard-00001.safetensors"):
            assert now[f"quarantine/{name}"] == before[name], number
        restore(zoo.folder, before)
        number += 1
    assert number > 12


@pytest.mark.slow
def test_killed_writers_lose_nothing_said_to_be_stored(tmp_path):
    """Four processes append; each is killed at some moment and started again, until all is there once."""
    folder, p = tmp_path / "zoo", layout().num_parameters
    Zoo.create(folder, layout(), {"rank": 2}, None)

    def work(worker):
        for k in range(5):
            name = f"shard-{10 * worker + k:05d}"
            zoo = Zoo.open(folder)
            if name not in zoo.shard_names:
                persons = [100 * worker + 2 * k, 100 * worker + 2 * k + 1]
                rows = torch.tensor(persons)[:, None] * torch.ones(2, p)
                zoo.append(name, persons, ["train"] * 2, rows, torch.ones(2, 1, 8), "made", "CC0")

    def child(worker, moment):
        kill_at(moment, folder)
        work(worker)

    context, kills = multiprocessing.get_context("fork"), 0
    for moment in [2, 5, 7, 9, 12, 15, 19, 10**9]:
        processes = [context.Process(target=child, args=(w, moment + w)) for w in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            kills += process.exitcode == -signal.SIGKILL
    assert kills > 8
    repair_zoo(folder)
    zoo = Zoo.open(folder)
    assert sorted(item.person for item in zoo.items) == sorted(100 * w + n for w in range(4) for n in range(10))
    assert zoo.verify() == []
    assert zoo.load()[1][:, 0].tolist() == sorted(item.person for item in zoo.items)


def test_appending_somebody_who_was_forgotten_is_refused(zoo):
    forget_person(zoo.folder, 31)
    p = layout().num_parameters
    for opened in (zoo, Zoo.open(zoo.folder)):  # one that was opened before, as a worker's is
        with pytest.raises(ZooError, match="expected people who may be in it, got 31, who was forgotten"):
            opened.append(
                "shard-00009", [31], ["train"], torch.ones(1, p), torch.ones(1, 2, 8), "made", "CC0", ids=["x"]
            )


def test_importing_again_passes_over_who_was_forgotten(tmp_path):
    loras = tmp_path / "loras"
    loras.mkdir()
    for n, name in enumerate(("ada", "bob", "eve")):
        LoRA.random(Layout.preset("sd15-w2w"), seed=n, std=0.1).save(loras / f"{name}.safetensors")
        np.save(loras / f"{name}.npy", np.random.default_rng(n).normal(size=8))

    def run():
        candidates = candidates_of(pair_by_name(find_loras([loras])))
        return import_zoo(candidates, tmp_path / "zoo", Layout.preset("sd15-w2w"), licence="CC0", report=lambda _: None)

    zoo, _ = run()
    assert len(zoo) == 3
    forget_person(zoo.folder, person_number("bob"))
    assert "bob" not in (zoo.folder / "import.jsonl").read_text()
    # Under another name it is the same file.
    (loras / "eve2.safetensors").write_bytes((loras / "bob.safetensors").read_bytes())
    np.save(loras / "eve2.npy", np.ones(8))
    zoo, outcomes = run()
    assert [(o.file.rpartition("/")[2].partition(".")[0], o.outcome) for o in outcomes] == [
        ("ada", "present"), ("bob", "forgotten"), ("eve", "present"), ("eve2", "forgotten"),
    ]  # fmt: skip
    assert len(zoo) == 2
    # A zoo of which everybody was forgotten stays a zoo, which remembers that.
    for name in ("ada", "eve"):
        forget_person(zoo.folder, person_number(name))
    zoo, outcomes = run()
    assert (len(zoo), {o.outcome for o in outcomes}) == (0, {"forgotten"})


def test_build_makes_what_repair_dropped_and_nobody_forgotten(tmp_path, monkeypatch):
    """The training is a stand-in, which gives each person the same LoRA in whatever company."""
    config, folder, trained = ZooConfig(people=6, validation_people=2, bank=3), tmp_path / "zoo", []

    def train(base, layout, init, persons, *_, **__):
        trained.extend(persons)
        return torch.stack([LoRA.random(layout, seed=person).vector for person in persons])

    class People(materials.DrawnMaterial):
        base, source = SimpleNamespace(layout=lambda *_: layout()), "made"

        def __init__(self, config):
            self.config, self._alone = config, {}

        def photos(self, persons):
            return persons

        def embeddings(self, persons):
            return torch.stack(
                [torch.full((self.config.embedding_photos, 8), person % 97) for person in persons]
            ).float()

    monkeypatch.setattr(build, "DrawnMaterial", People)
    monkeypatch.setattr(build, "train_people", train)
    monkeypatch.setattr(
        build, "_begin", lambda *_: Zoo.create(folder, layout(), {"rank": 2, "bank": config.bank}, torch.zeros(36))
    )
    said = []
    zoo = build_zoo(config, str(folder), report=said.append)
    assert (len(zoo), len(trained), said) == (8, 8, [])
    whole, someone = stored(folder), zoo.items[0]
    forget_person(folder, someone.person)
    trained.clear()
    assert len(build_zoo(config, str(folder), report=said.append)) == 7
    assert (trained, said) == ([], ["1 people were forgotten and stay out"])
    shard = folder / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (lost,) = [i for i in Zoo.open(folder).items if i.id not in {s.id for s in verify(folder).items}]
    repair_zoo(folder)
    again = build_zoo(config, str(folder), report=said.append)
    assert trained == [lost.person]
    assert again.verify() == []
    assert stored(folder) == {id: parts for id, parts in whole.items() if id != someone.id}


def test_zoo_resized_before_has_to_forget_too(zoo, tmp_path):
    resize_zoo(zoo, tmp_path / "new", 1, report=lambda _: None)
    forget_person(zoo.folder, 12)
    with pytest.raises(ZooError, match="holds LoRAs of 12, who was forgotten"):
        resize_zoo(Zoo.open(zoo.folder), tmp_path / "new", 1, report=lambda _: None)
    forget_person(tmp_path / "new", 12)
    new, _ = resize_zoo(Zoo.open(zoo.folder), tmp_path / "new", 1, report=lambda _: None)
    assert {i.id for i in new.items} == {i.id for i in Zoo.open(zoo.folder).items}


def test_command_forgets_by_number_and_by_name(zoo, monkeypatch, capsys):
    def command(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["lorasynth", "zoo", "forget", str(zoo.folder), *arguments])
        with pytest.raises(SystemExit, match=rf"^{code}$"):
            main()
        return capsys.readouterr()

    said = command("--person", "12")
    record = json.loads(said.out)
    assert (record["ids"], record["items"]) == (["item-01", "item-03"], 7)
    assert "2 LoRAs forgotten, 7 are left; train again what learned from them" in said.err
    said = command("--person", "somebody else", code=2)
    assert "expected a person of the zoo" in said.err
    assert len(said.err.splitlines()) == 1


def cut(folder):
    os.truncate(folder / "shard-00001.safetensors", 100)


def line_of_shard(folder, name):
    manifest = folder / "manifest.jsonl"
    first, *rest = manifest.read_bytes().splitlines(keepends=True)
    item = next(line.record for line in read_manifest(folder).lines if hasattr(line.record, "shard"))
    manifest.write_bytes(b"".join([first, *rest, to_line(replace(item, id="strange", shard=name))]))


def put(name, content=b"x"):
    def act(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return act


WHATEVER = {
    "a report of garbage": put("import.jsonl", b"garbage\n"),
    "a report cut off": put("import.jsonl", b'{"file": "a", "id"'),
    "a report that is not UTF-8": put("import.jsonl", b"\xff\n[]\n7\n"),
    "a report that is a folder": put("import.jsonl/x"),
    "a folder .x.part": put(".x.part/y"),
    "a folder shard-99999": put("shard-99999.safetensors/y"),
    "a quarantine that is a file": lambda d: (put("quarantine")(d), cut(d)),
    "a log that is not UTF-8": lambda d: (put("quarantine/dropped.jsonl", b"\xff\n")(d), cut(d)),
    "a log that is a folder": lambda d: (put("quarantine/dropped.jsonl/x")(d), cut(d)),
    "a quarantine that is a link": lambda d: ((d / "quarantine").symlink_to(d.parent), cut(d)),
    "a shard of 5,000 letters": lambda d: line_of_shard(d, "x" * 5_000),
    "a shard with a NUL": lambda d: line_of_shard(d, "a\0b"),
    "a shard elsewhere": lambda d: line_of_shard(d, "../x"),
    "a pipe among shards": lambda d: os.mkfifo(d / "shard-99998.safetensors"),
    "a lock that is a link": lambda d: ((d / ".lock").unlink(), (d / ".lock").symlink_to(d / "zoo.json")),
    "a lock that is a folder": lambda d: ((d / ".lock").unlink(), (d / ".lock").mkdir()),
    "a lock that is a pipe": lambda d: ((d / ".lock").unlink(), os.mkfifo(d / ".lock")),
}


@pytest.mark.parametrize("damage", WHATEVER.values(), ids=WHATEVER)
def test_forget_and_repair_finish_or_say_why_not(zoo, damage):
    damage(zoo.folder)
    before = (zoo.folder / "zoo.json").read_bytes()
    outside = sorted(p.name for p in zoo.folder.parent.iterdir())
    for act in (lambda: forget_person(zoo.folder, 31), lambda: repair_zoo(zoo.folder)) * 2:
        with contextlib.suppress(LorasynthError):  # whose message is a sentence
            act()
    assert (zoo.folder / "zoo.json").read_bytes() == before
    assert sorted(p.name for p in zoo.folder.parent.iterdir()) == outside
    with contextlib.suppress(LorasynthError):
        Zoo.open(zoo.folder).verify()


def test_lines_strange_shard_goes_by_repair(zoo):
    line_of_shard(zoo.folder, "x" * 5_000)
    repair_zoo(zoo.folder)
    assert verify(zoo.folder).faults == []
