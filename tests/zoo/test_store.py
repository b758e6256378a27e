"""A zoo on disk: what the manifest says exists, and nothing else does."""

import json

import pytest
import torch

from lorasynth.errors import ModelError, ZooError
from lorasynth.lora.layout import Layout, Module
from lorasynth.storage.settings import Settings
from lorasynth.zoo import Zoo

LAYOUT = Layout(base="toy", modules=(Module(name="m", in_features=4, out_features=3, rank=1),))


@pytest.fixture
def zoo(tmp_path):
    made = Zoo.create(tmp_path / "zoo", LAYOUT, {"rank": 1}, torch.arange(7.0))
    _append(made, "shard-00000", [5, 3])
    _append(made, "shard-00001", [9])
    return Zoo.open(tmp_path / "zoo")


def _append(zoo, shard, persons):
    vectors = torch.tensor(persons)[:, None] * torch.ones(1, 7)
    embeddings = torch.ones(len(persons), 2, 8)
    zoo.append(shard, persons, ["train"] * len(persons), vectors, embeddings, "made", "CC0")


def test_what_was_put_in_comes_out_in_order_of_person(zoo):
    persons, vectors, embeddings = zoo.load("train")
    assert persons == [3, 5, 9]
    assert vectors[:, 0].tolist() == [3.0, 5.0, 9.0]
    assert embeddings.shape == (3, 2, 8)
    assert zoo.init().tolist() == list(range(7))
    assert zoo.verify() == []


def test_shard_without_records_does_not_exist(zoo):
    (zoo.folder / "shard-00002.safetensors").write_bytes((zoo.folder / "shard-00001.safetensors").read_bytes())
    assert len(Zoo.open(zoo.folder)) == 3


def test_torn_last_line_is_no_item(zoo):
    manifest = zoo.folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-5])
    assert len(Zoo.open(zoo.folder)) == 2


def test_flipped_bit_is_found_and_named(zoo):
    shard = zoo.folder / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 16
    shard.write_bytes(content)
    faults = zoo.verify()
    assert len(faults) == 1
    assert "toy-3" in faults[0]
    assert "expected sha256" in faults[0]


def test_swapped_rows_are_found(zoo):
    manifest = zoo.folder / "manifest.jsonl"
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    records[0]["row"], records[1]["row"] = records[1]["row"], records[0]["row"]
    manifest.write_text("".join(json.dumps(r) + "\n" for r in records))
    assert len(Zoo.open(zoo.folder).verify()) == 2


def test_doubled_item_is_refused(zoo):
    manifest = zoo.folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0] + "\n")
    with pytest.raises(ZooError, match="item 'toy-5' stands twice"):
        Zoo.open(zoo.folder)


def test_another_recipe_in_the_same_folder_is_refused(zoo):
    with pytest.raises(ZooError, match="zoo of another recipe"):
        Zoo.create(zoo.folder, LAYOUT, {"rank": 2}, torch.zeros(7))


def test_new_setting_at_its_default_ends_no_zoo(tmp_path, zoo):
    layout = zoo.layout
    Zoo.create(tmp_path / "new", layout, {"rank": 2}, None)
    again = Zoo.create(tmp_path / "new", layout, Settings({"rank": 2, "places": 16}, {"places": 16}), None)
    assert again.recipe == {"rank": 2}
    with pytest.raises(ZooError, match="zoo of another recipe"):
        Zoo.create(tmp_path / "new", layout, Settings({"rank": 2, "places": 8}, {"places": 16}), None)


def test_lora_that_is_not_finite_is_not_stored(zoo):
    with pytest.raises(ZooError, match="not finite"):
        zoo.append("shard-00009", [1], ["train"], torch.full((1, 7), torch.nan), torch.ones(1, 1, 8), "made", "CC0")
    assert not (zoo.folder / "shard-00009.safetensors").exists()


def test_no_zoo_is_said_so(tmp_path):
    with pytest.raises(ZooError, match="expected a zoo"):
        Zoo.open(tmp_path / "nothing")


@pytest.mark.parametrize("how", ["a link", "a name"])
def test_shard_outside_the_zoo_is_not_read(zoo, tmp_path, how):
    shard, elsewhere = zoo.folder / "shard-00001.safetensors", tmp_path / "other.safetensors"
    shard.rename(elsewhere)
    if how == "a link":
        shard.symlink_to(elsewhere)
    else:
        manifest = zoo.folder / "manifest.jsonl"
        manifest.write_text(manifest.read_text().replace('"shard-00001"', '"../other"'))
        zoo = Zoo.open(zoo.folder)
    with pytest.raises(ModelError, match="expected a shard within the zoo, got a way out of it"):
        zoo.load()
    assert "a way out of it" in zoo.verify()[-1]


def test_zoo_in_the_hubs_cache_is_read_through_its_links(zoo, tmp_path):
    """Which lies as ``snapshots/REVISION/FILE``, each a link to ``blobs/HASH``."""
    snapshot, blobs = tmp_path / "datasets--me--zoo" / "snapshots" / "0a1b", tmp_path / "datasets--me--zoo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(f for f in zoo.folder.iterdir() if f.name != ".lock"):
        (blobs / f"{number:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    cached = Zoo.open(snapshot)
    assert cached.load()[0] == [3, 5, 9]
    assert cached.verify() == []
    (snapshot / "shard-00001.safetensors").unlink()
    (snapshot / "shard-00001.safetensors").symlink_to(zoo.folder / "shard-00001.safetensors")
    with pytest.raises(ModelError, match="got a way out of it"):
        cached.load()


def test_link_that_goes_round_is_named(zoo):
    shard = zoo.folder / "shard-00001.safetensors"
    shard.unlink()
    shard.symlink_to(shard)
    with pytest.raises(ModelError, match=r"shard-00001\.safetensors"):
        zoo.load()
    assert len(zoo.verify()) == 1


def test_record_without_its_shard_is_named(zoo):
    (zoo.folder / "shard-00001.safetensors").unlink()
    assert len(zoo.verify()) == 1
    assert "shard-00001" in zoo.verify()[0]
    with pytest.raises(ModelError, match=r"shard-00001\.safetensors"):
        zoo.load()


def test_split_without_loras_is_refused_with_what_there_is(zoo):
    with pytest.raises(ZooError, match="'held_out', got 3 of 'train'; give an imported zoo: `zoo build` makes none"):
        zoo.load("held_out")
    with pytest.raises(ZooError, match="'validation', got 3 of 'train'; build or import them first"):
        zoo.load("validation")
