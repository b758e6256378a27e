"""Whatever is planted into a zoo is found and named, and nothing else is; and a repair leaves what is sound to the byte."""

import json
import sys
from collections import Counter
from contextlib import suppress

import pytest
import torch

from lorasynth.cli import main
from lorasynth.errors import LorasynthError, ZooError
from lorasynth.zoo import Zoo
from lorasynth.zoo.repair import repair_zoo
from lorasynth.zoo.report import LEFTOVER, UNREPAIRABLE
from lorasynth.zoo.verify import verify

from .planted import Planter, contents, layout, make_zoo, restore, stored

FAULTS = 1_000


@pytest.fixture
def zoo(tmp_path):
    return make_zoo(tmp_path / "zoo")


def command(monkeypatch, *arguments, code=0):
    monkeypatch.setattr(sys, "argv", ["lorasynth", "zoo", *map(str, arguments)])
    with pytest.raises(SystemExit, match=rf"^{code}$"):
        main()


def test_sound_zoo_has_no_faults(zoo):
    report = verify(zoo.folder)
    assert report.faults == []
    assert report.items == list(zoo.items)
    assert (len(zoo), report.unchecked, len(report.tombstones)) == (9, 0, 1)


@pytest.mark.slow
def test_every_planted_fault_is_found_and_named(zoo):
    planter, before, found = Planter(zoo.folder), contents(zoo.folder), Counter()
    for number in range(FAULTS):
        kind, place = planter.plant(number)
        faults = verify(zoo.folder).faults
        assert any(place in fault.place for fault in faults), (number, kind, place, list(map(str, faults)))
        assert all("expected" in fault.problem for fault in faults), (number, kind, list(map(str, faults)))
        if number % 5 == 0:
            with suppress(LorasynthError):  # whoever reads it all the same gets no other error
                Zoo.open(zoo.folder).load()
        found[kind] += 1
        restore(zoo.folder, before)
    assert found.total() == FAULTS
    assert len(found) > 30
    assert verify(zoo.folder).faults == []


@pytest.mark.slow
def test_repair_leaves_a_sound_zoo_and_loses_nothing_sound(zoo):
    planter, before = Planter(zoo.folder, seed=1), contents(zoo.folder)
    rows = stored(zoo.folder)
    for number in range(3 * len(planter.kinds)):
        kind, _ = planter.plant(number)
        report, damaged = verify(zoo.folder), contents(zoo.folder)
        if any(fault.code in UNREPAIRABLE for fault in report.faults):
            with pytest.raises(ZooError, match="cannot be repaired: "):
                repair_zoo(zoo.folder)
            assert contents(zoo.folder) == damaged
        else:
            repaired = repair_zoo(zoo.folder)
            assert verify(zoo.folder).faults == [], (number, kind)
            kept = stored(zoo.folder)
            assert kept.keys() == {item.id for item in report.items}, (number, kind)
            assert kept.items() <= rows.items(), (number, kind)
            assert repaired.items == len(kept)
            # Each line that is gone is in quarantine, with the reason, and each file that is gone is, but for temporary ones.
            log = zoo.folder / "quarantine" / "dropped.jsonl"
            logged = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            assert {d["reason"] for d in logged} == {d["reason"] for d in repaired.dropped}
            now = contents(zoo.folder)
            gone = {n for n in damaged if n not in now and f"quarantine/{n}" not in now and not n.endswith(".part")}
            private = {"shard-" in n and kind == "somebody_who_was_forgotten" for n in gone}
            assert private <= {True}, (number, kind, gone)
            # The same again finds nothing to do.
            assert repair_zoo(zoo.folder).faults == []
            assert contents(zoo.folder) == now
        restore(zoo.folder, before)


def test_shards_that_are_sound_are_not_touched_by_a_repair(zoo):
    before = {path.name: path.stat().st_mtime_ns for path in zoo.folder.glob("shard-*")}
    inodes = {path.name: path.stat().st_ino for path in zoo.folder.glob("shard-*")}
    (zoo.folder / "shard-00001.safetensors").write_bytes(b"nothing")
    repaired = repair_zoo(zoo.folder)
    assert repaired.quarantined == ["shard-00001.safetensors"]
    assert [d["reason"] for d in repaired.dropped] == [str(repaired.faults[0])] * 2
    for name in ("shard-00000.safetensors", "shard-00002.safetensors"):
        assert (zoo.folder / name).stat().st_mtime_ns == before[name]
        assert (zoo.folder / name).stat().st_ino == inodes[name]


def test_repair_writes_over_no_file_that_it_finds(zoo):
    (zoo.folder / "shard-00000.1.safetensors").write_bytes(b"somebody's")
    shard = zoo.folder / "shard-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    repaired = repair_zoo(zoo.folder)
    assert sorted(repaired.quarantined) == ["shard-00000.1.safetensors", "shard-00000.safetensors"]
    now = contents(zoo.folder)
    assert now["quarantine/shard-00000.1.safetensors"] == b"somebody's"
    assert now["quarantine/shard-00000.safetensors"] == damaged
    assert {item.shard for item in Zoo.open(zoo.folder).items if item.id.startswith("item-0")} == {"shard-00000.2"}


def test_what_was_repaired_away_can_come_in_again(zoo):
    shard = zoo.folder / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (lost,) = {item.id for item in zoo.items} - {item.id for item in verify(zoo.folder).items}
    repair_zoo(zoo.folder)
    again = Zoo.open(zoo.folder)
    p = layout().num_parameters
    again.append("shard-00009", [7], ["train"], torch.ones(1, p), torch.ones(1, 2, 8), "made", "CC0", ids=[lost])
    assert Zoo.open(zoo.folder).verify() == []
    assert len(Zoo.open(zoo.folder)) == 9


def test_item_is_not_taken_in_twice(zoo):
    p = layout().num_parameters
    with pytest.raises(ZooError, match=r"expected a new item, got 'item-00', which stands there"):
        zoo.append("shard-00009", [7], ["train"], torch.ones(1, p), torch.ones(1, 2, 8), "made", "CC0", ids=["item-00"])
    assert {fault.code for fault in verify(zoo.folder).faults} <= set(LEFTOVER)
    assert len(Zoo.open(zoo.folder)) == 9


def test_torn_line_does_not_spoil_the_next_one(zoo):
    manifest, p = zoo.folder / "manifest.jsonl", layout().num_parameters
    manifest.write_bytes(manifest.read_bytes()[:-9])
    Zoo.open(zoo.folder).append(
        "shard-00009", [7], ["train"], torch.ones(1, p), torch.ones(1, 2, 8), "made", "CC0", ids=["new"]
    )
    assert [item.id for item in Zoo.open(zoo.folder).items][-1] == "new"
    assert [str(fault) for fault in verify(zoo.folder).faults] == [
        "shard-00002 row 2: expected an item that it is of, got none"
    ]


def test_zoo_of_schema_1_is_read_and_goes_on_as_schema_2(zoo):
    """Written as version 1 did: no checksums but that of a LoRA."""
    record = json.loads((zoo.folder / "zoo.json").read_text())
    old = {"schema": 1, "layout": record["layout"], "recipe": record["recipe"]}
    (zoo.folder / "zoo.json").write_text(json.dumps(old, indent=2) + "\n")
    manifest = zoo.folder / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines() if line.startswith('{"id"')]
    new = ("check", "embeddings_sha256")
    manifest.write_text("".join(json.dumps({k: v for k, v in r.items() if k not in new}) + "\n" for r in lines))
    report = verify(zoo.folder)
    assert (report.faults, report.unchecked) == ([], 9)
    again, p = Zoo.create(zoo.folder, layout(), {"rank": 2}, None), layout().num_parameters
    again.append("shard-00009", [7], ["train"], torch.ones(1, p), torch.ones(1, 2, 8), "made", "CC0", ids=["new"])
    assert json.loads((zoo.folder / "zoo.json").read_text())["schema"] == 2
    report = verify(zoo.folder)
    assert (report.faults, report.unchecked, len(report.items)) == ([], 9, 10)


def test_no_zoo_is_said_so_and_nothing_is_left_there(tmp_path):
    for act in (verify, repair_zoo):
        with pytest.raises(ZooError, match="expected a zoo, got no"):
            act(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_commands_say_what_is_wrong_and_mend_it(zoo, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "verify", zoo.folder)
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "zoo": str(zoo.folder), "sound": True, "items": 9, "shards": 3, "forgotten": 1, "without_checksums": 0, "faults": [],
    }  # fmt: skip
    (zoo.folder / "shard-00001.safetensors").unlink()
    (zoo.folder / ".shard-00001.safetensors.x.part").write_bytes(b"x")
    command(monkeypatch, "verify", zoo.folder, "--json", tmp_path / "faults.json", code=2)
    captured, said = capsys.readouterr(), json.loads((tmp_path / "faults.json").read_text())
    assert len(captured.err.splitlines()) == 1
    assert "expected a sound zoo, got 2 faults, the first: shard-00001 (item-10, item-11): expected" in captured.err
    assert [(f["code"], f["place"], f["items"]) for f in said["faults"]] == [
        ("missing-shard", "shard-00001", ["item-10", "item-11"]), ("orphan-file", ".shard-00001.safetensors.x.part", []),
    ]  # fmt: skip
    assert (said["sound"], said["items"]) == (False, 7)
    command(monkeypatch, "repair", zoo.folder)
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["items"], len(said["dropped"]), said["deleted"]) == (7, 2, [".shard-00001.safetensors.x.part"])
    assert "2 faults, 2 lines dropped, 7 items kept" in captured.err
    command(monkeypatch, "verify", zoo.folder)
    capsys.readouterr()
    command(monkeypatch, "verify", tmp_path / "nothing", code=2)
