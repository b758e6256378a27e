"""A zoo at another rank, against PyTorch's own singular value decomposition of updates formed whole."""

import json
import sys

import pytest
import torch

from lorasynth.cli import main
from lorasynth.errors import LayoutError, UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo.resize import resize_zoo
from lorasynth.zoo.store import Zoo

NAMES = ("a", "b")


def layout_of(rank):
    sides = {"a": (5, 4), "b": (6, 7)}
    return Layout(
        base="tiny",
        modules=tuple(Module(name=n, in_features=sides[n][0], out_features=sides[n][1], rank=rank) for n in NAMES),
    )


@pytest.fixture
def zoo(tmp_path):
    """Five LoRAs of rank 3 in two shards."""
    made = Zoo.create(tmp_path / "zoo", layout_of(3), {"source": "import"}, None)
    g = torch.Generator().manual_seed(0)
    for shard, persons in (("shard-00000", [4, 2, 9]), ("shard-00001", [7, 1])):
        vectors = torch.randn(len(persons), made.layout.num_parameters, generator=g)
        splits = ["train", "held_out", "train"][: len(persons)]
        made.append(shard, persons, splits, vectors, torch.randn(len(persons), 2, 8, generator=g), "import", "CC0")
    return Zoo.open(made.folder)


def updates(zoo):
    """Item -> module -> the update, formed whole."""
    rows = [row for shard in sorted({i.shard for i in zoo.items}) for row in zoo.rows(shard)]
    return {id: {n: LoRA(zoo.layout, vector).delta_W(n) for n in NAMES} for id, vector, _ in rows}


@pytest.mark.parametrize("rank", [1, 2])
def test_lower_rank_is_the_nearest_update_with_its_error_said(zoo, tmp_path, rank):
    said = []
    new, error = resize_zoo(zoo, tmp_path / "new", rank, report=said.append)
    before, after = updates(zoo), updates(new)
    expected = {}
    for id, modules in before.items():
        lost = total = 0.0
        for name, update in modules.items():
            U, S, Vh = torch.linalg.svd(update)
            nearest = U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank]
            torch.testing.assert_close(after[id][name], nearest, rtol=1e-2, atol=1e-2)  # stored as float16
            lost, total = lost + S[rank:].square().sum().item(), total + S.square().sum().item()
        expected[id] = (lost / total) ** 0.5
    assert {i.id: i.relative_error for i in new.items} == pytest.approx(expected, rel=1e-4)
    mean = sum(expected.values()) / len(expected)
    assert error == pytest.approx({"mean": mean, "largest": max(expected.values())}, rel=1e-4)
    assert said == [f"shard-00000: 3 LoRAs at rank {rank}", f"shard-00001: 2 LoRAs at rank {rank}"]


def test_people_splits_embeddings_and_licences_stay(zoo, tmp_path):
    new, _ = resize_zoo(zoo, tmp_path / "new", 1, report=lambda _: None)
    kept = [(i.id, i.person, i.split, i.shard, i.row, i.source, i.licence) for i in zoo.items]
    assert [(i.id, i.person, i.split, i.shard, i.row, i.source, i.licence) for i in new.items] == kept
    assert new.layout == layout_of(1)
    assert new.recipe == {"source": "import", "resized": {"rank": 1, "layout": zoo.layout.hash}}
    assert torch.equal(new.load()[2], zoo.load()[2])
    assert new.verify() == []


def test_higher_rank_is_exact(zoo, tmp_path):
    new, error = resize_zoo(zoo, tmp_path / "new", 4, report=lambda _: None)
    assert error == {"mean": 0, "largest": 0}
    before, after = updates(zoo), updates(new)
    for id in before:
        for name in NAMES:
            torch.testing.assert_close(after[id][name], before[id][name])


def test_two_steps_cost_what_one_does(zoo, tmp_path):
    once, direct = resize_zoo(zoo, tmp_path / "one", 1, report=lambda _: None)
    between, _ = resize_zoo(zoo, tmp_path / "two", 2, report=lambda _: None)
    twice, by_steps = resize_zoo(between, tmp_path / "three", 1, report=lambda _: None)
    assert by_steps == pytest.approx(direct, rel=1e-2)
    for id, modules in updates(once).items():
        for name, update in modules.items():
            torch.testing.assert_close(updates(twice)[id][name], update, rtol=1e-2, atol=2e-2)


def test_stopped_resizing_goes_on_where_it_was(zoo, tmp_path):
    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    with pytest.raises(Stop, match=r"^$"):
        resize_zoo(zoo, tmp_path / "new", 1, report=stop)
    assert len(Zoo.open(tmp_path / "new")) == 3
    said = []
    new, _ = resize_zoo(zoo, tmp_path / "new", 1, report=said.append)
    assert said == ["shard-00001: 2 LoRAs at rank 1"]
    whole, _ = resize_zoo(zoo, tmp_path / "whole", 1, report=said.append)
    assert new.items == whole.items


def test_what_cannot_be_resized_is_refused(zoo, tmp_path):
    with pytest.raises(UsageError, match="expected another rank than 3"):
        resize_zoo(zoo, tmp_path / "new", 3)
    with pytest.raises(LayoutError, match="a: expected a rank from 1 to 4, got 5"):
        resize_zoo(zoo, tmp_path / "new", 5)
    shard = zoo.folder / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # of the last LoRA
    shard.write_bytes(bytes(content))
    with pytest.raises(ZooError, match="expected a sound zoo to resize, got"):
        resize_zoo(zoo, tmp_path / "new", 1)
    assert not (tmp_path / "new").exists()


def test_command_says_what_it_cost(zoo, tmp_path, monkeypatch, capsys):
    arguments = ["lorasynth", "zoo", "resize", str(zoo.folder), "--rank", "2", "--out", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    record = json.loads(capsys.readouterr().out)
    assert (record["items"], record["rank"], record["layout"]) == (5, 2, layout_of(2).hash)
    assert 0 < record["relative_error"]["mean"] <= record["relative_error"]["largest"] < 1
