"""Any number of processes read the files of an import, are killed or not, and the zoo is that of one process, byte for byte."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module
from lorasynth.workers.ahead import done_ahead
from lorasynth.zoo import Zoo
from lorasynth.zoo.importing.bringing import bring_all
from lorasynth.zoo.importing.candidates import candidates_of
from lorasynth.zoo.importing.importer import import_zoo
from lorasynth.zoo.importing.pairing import find_loras, pair_by_name

NAMES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{n}" for n in ("to_k", "to_q", "to_v")]
WIDE = Layout(base="sd15", modules=tuple(Module(name=n, in_features=320, out_features=320, rank=4) for n in NAMES))
LAYOUT = Layout(base="sd15", modules=WIDE.modules[1:]).of_rank(2)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    """Thirty LoRAs, all of whose ranks are lowered and some of whose modules are left out; a twin, a copy, and some no good."""
    where = tmp_path / "loras"
    where.mkdir()
    for n in range(30):
        layout = WIDE if n % 3 else LAYOUT.of_rank(4)
        LoRA.random(layout, seed=n, std=0.1).save(
            where / f"{n:02d}.safetensors", "kohya" if n % 2 else "diffusers", torch.float16
        )
        np.save(where / f"{n:02d}.npy", np.random.default_rng(n).normal(size=8))
    (where / "09a.safetensors").write_bytes((where / "09.safetensors").read_bytes())
    LoRA.load(where / "04.safetensors").save(where / "04a.safetensors", "kohya")
    for name in ("04a", "05a"):
        np.save(where / f"{name}.npy", np.ones(8))
    (where / "05a.safetensors").write_bytes(b"not a LoRA")
    (where / "07.npy").write_bytes(b"not an embedding")
    (where / "08.npy").unlink()
    return where


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Helpers that start at once, and blocks of three candidates."""
    module = "lorasynth.zoo.importing.importer"
    monkeypatch.setattr(f"{module}.done_ahead", partial(done_ahead, method="fork"))
    monkeypatch.setattr(f"{module}.require_main_guard", lambda: None)
    monkeypatch.setattr("lorasynth.zoo.importing.looking.MOST", 3)


def take(folder, out, workers):
    entries = pair_by_name(find_loras([folder]))
    reopen = partial(candidates_of, entries)
    return import_zoo(
        reopen(), out, LAYOUT, licence="CC0", workers=workers, reopen=reopen, shard_size=5, report=lambda _: None
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.slow
def test_zoo_of_three_workers_is_that_of_one(folder, tmp_path):
    one, outcomes = take(folder, tmp_path / "one", 1)
    take(folder, tmp_path / "three", 3)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    said = [o.outcome for o in outcomes]
    assert [said.count(kind) for kind in ("imported", "present", "duplicate", "refused")] == [28, 0, 2, 3]
    assert one.verify() == []
    assert min(item.relative_error for item in one.items) > 0.1


def begin(folder, out, workers, pause):
    """An import that takes long: each shard is followed by a pause."""
    entries = pair_by_name(find_loras([folder]))
    reopen = partial(candidates_of, entries)
    import_zoo(
        reopen(), out, LAYOUT, licence="CC0", workers=workers, reopen=reopen, shard_size=5,
        report=lambda _: time.sleep(pause),
    )  # fmt: skip


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.slow
def test_killed_import_goes_on_to_the_same_zoo(folder, tmp_path, shards):
    take(folder, tmp_path / "one", 1)
    out = tmp_path / "many"
    process = FORK.Process(target=begin, args=(folder, out, 3, 0.3))
    process.start()
    while len(list(out.glob("shard-*.safetensors"))) < shards:
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    zoo, outcomes = take(folder, out, 3)
    before, after = contents(tmp_path / "one"), contents(out)
    assert {o.outcome for o in outcomes} - {"present"} == {"imported", "duplicate", "refused"}
    assert {name: after[name] for name in after if name != "import.jsonl"} == {
        name: before[name] for name in before if name != "import.jsonl"
    }
    assert zoo.verify() == []


@pytest.mark.slow
def test_changed_list_is_read_by_this_process_alone(folder, tmp_path, capfd):
    """As where a table was changed after the import began: a helper that has other candidates gives nothing."""
    take(folder, tmp_path / "one", 1)
    entries = pair_by_name(find_loras([folder]))
    others = [replace(entry, person=f"not {entry.person}") for entry in entries]
    import_zoo(
        candidates_of(entries), tmp_path / "many", LAYOUT, licence="CC0", workers=2,
        reopen=partial(candidates_of, others), shard_size=5, report=lambda _: None,
    )  # fmt: skip
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert "expected the same LoRAs as the import has" in capfd.readouterr().err


def test_workers_need_a_way_to_reopen(folder, tmp_path):
    candidates = candidates_of(pair_by_name(find_loras([folder])))
    with pytest.raises(UsageError, match="expected a way to reopen the candidates for 2 workers, got none"):
        import_zoo(candidates, tmp_path / "zoo", LAYOUT, licence="CC0", workers=2)
    assert not (tmp_path / "zoo").exists()


def test_lora_becomes_the_same_among_others_and_alone():
    layout = LAYOUT.of_rank(1)
    vectors = torch.stack([LoRA.random(WIDE, seed=n).vector for n in range(9)])
    many, errors, left_out = bring_all(WIDE, vectors, layout, leave_out=True)
    for n in range(9):
        one, error, left = bring_all(WIDE, vectors[n : n + 1], layout, leave_out=True)
        assert torch.equal(one[0], many[n])
        assert (error[0], left[0]) == (errors[n], left_out[n])


@pytest.mark.slow
def test_verb_with_workers_makes_the_same_zoo(folder, tmp_path, monkeypatch):
    """With processes as they are started in earnest."""
    monkeypatch.setattr("lorasynth.zoo.importing.importer.done_ahead", done_ahead)
    for workers in ("1", "2"):
        words = [
            "zoo",
            "import",
            str(folder),
            "--out",
            str(tmp_path / workers),
            "--licence",
            "CC0",
            "--workers",
            workers,
        ]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(Zoo.open(tmp_path / "1")) == 28
