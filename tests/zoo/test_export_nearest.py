"""Items leave a zoo as files that every tool reads, and LoRA files find their like in it: against updates formed whole."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from lorasynth.cli import main
from lorasynth.errors import LayoutError, OutputExistsError, UsageError, ZooError
from lorasynth.lora.factors import LoRA, delta_W_pairs
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo import Zoo
from lorasynth.zoo.export import export_items
from lorasynth.zoo.nearest import nearest_items

NAMES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{n}" for n in ("to_q", "to_v")]


def layout(rank=2, out_features=10):
    return Layout(
        base="sd15",
        modules=tuple(Module(name=n, in_features=12, out_features=out_features, rank=rank) for n in NAMES),
    )


@pytest.fixture
def zoo(tmp_path):
    """Fifty LoRAs in two shards, so that they are looked at in several parts."""
    made = Zoo.create(tmp_path / "zoo", layout(), {"source": "import"}, None)
    for shard in range(2):
        rows = torch.stack(
            [LoRA.random(layout(), seed=100 * shard + i, std=0.1).vector for i in range(25 + 15 * shard)]
        )
        persons = [100 * shard + i for i in range(len(rows))]
        made.append(
            f"shard-{shard:05d}", persons, ["train"] * len(rows), rows, torch.ones(len(rows), 1, 8), "made", "CC0"
        )
    return Zoo.open(made.folder)


def whole(lora):
    return torch.cat([lora.delta_W(name).double().flatten() for name in NAMES])


def row_of(zoo, id):
    (vector,) = [v for s in {i.shard for i in zoo.items} for i, v, _ in zoo.rows(s) if i == id]
    return LoRA(zoo.layout, vector)


@pytest.mark.parametrize("format", ["kohya", "diffusers", "peft"])
def test_exported_items_are_the_same_updates_with_their_licence(zoo, tmp_path, format):
    ids = ["sd15-3", "sd15-105"]
    files = export_items(zoo, ids, tmp_path / "out", format)
    assert [f.name.removesuffix(".safetensors") for f in files] == ids
    for id, file in zip(ids, files, strict=True):
        again = LoRA.load(file, like=layout())
        assert torch.equal(whole(again), whole(row_of(zoo, id)))
        assert again.metadata["lorasynth.licence"] == "CC0"
        assert again.metadata["lorasynth.item"] == id
        assert again.layout.base == "sd15"


def test_exported_peft_folders_are_read_by_peft(zoo, tmp_path):
    """With PEFT's own names and configuration, and numbers that PEFT multiplies to the same update."""
    (folder,) = export_items(zoo, ["sd15-3"], tmp_path / "out", "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    lora = row_of(zoo, "sd15-3")
    for name in NAMES:
        A, B = (tensors[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
        torch.testing.assert_close(B @ A * config["lora_alpha"] / config["r"], lora.delta_W(name))


def test_export_refuses_before_anything_is_written(zoo, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZooError, match=r"expected ids of its 65 items, got 'sd15-77'"):
        export_items(zoo, ["sd15-3", "sd15-77"], out)
    with pytest.raises(UsageError, match="expected ids that are different file names"):
        export_items(zoo, ["sd15-3", "sd15-3"], out)
    assert not out.exists()
    export_items(zoo, ["sd15-3"], out)
    for format in ("kohya", "diffusers"):
        with pytest.raises(OutputExistsError, match="exists already"):
            export_items(zoo, ["sd15-4", "sd15-3"], out, format)
    export_items(zoo, ["sd15-4"], out, "peft")
    with pytest.raises(OutputExistsError, match="is not empty"):
        export_items(zoo, ["sd15-5", "sd15-4"], out, "peft")
    assert sorted(p.name for p in out.iterdir()) == ["sd15-3.safetensors", "sd15-4"]
    export_items(zoo, ["sd15-3"], out, force=True)


@pytest.mark.parametrize("format", ["kohya", "peft"])
def test_items_id_is_never_a_path(tmp_path, format):  # row 121; a zoo from elsewhere may hold any
    ids = ["../../x", "..", ".", "/tmp/y", "a\\b", "con\0n", "\u202e\U0001f600"]
    made = Zoo.create(tmp_path / "zoo", layout(), {"source": "import"}, None)
    rows = torch.stack([LoRA.random(layout(), seed=i, std=0.1).vector for i in range(len(ids))])
    made.append(
        "shard-00000",
        list(range(len(ids))),
        ["train"] * len(ids),
        rows,
        torch.ones(len(ids), 1, 8),
        "made",
        "CC0",
        ids=ids,
    )
    out = tmp_path / "out"
    files = export_items(Zoo.open(made.folder), ids, out, format, force=True)
    assert sorted(tmp_path.iterdir()) == [out, made.folder]
    assert sorted(out.iterdir()) == sorted(files)
    assert [
        torch.equal(loaded.delta_W(NAMES[0]), LoRA.load(files[0], like=layout()).delta_W(NAMES[0]))
        for loaded in (LoRA.load(file, like=layout()) for file in files)
    ].count(True) == 1


def test_damaged_item_is_not_exported(zoo, tmp_path):
    shard = zoo.folder / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # "vectors" lie behind "embeddings"
    shard.write_bytes(content)
    with pytest.raises(ZooError, match="sd15-24: expected the LoRA that the manifest says, got another"):
        export_items(zoo, ["sd15-3", "sd15-24"], tmp_path / "out")
    shard.write_bytes(b"nothing")
    with pytest.raises(ZooError, match="run `lorasynth zoo repair`"):
        export_items(zoo, ["sd15-3"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.slow
def test_neighbours_are_those_of_updates_formed_whole(zoo, rank):
    lora = LoRA.random(layout(rank), seed=777, std=0.1)
    x = whole(lora)
    expected = []
    for item in zoo.items:
        y = whole(row_of(zoo, item.id))
        expected.append(((x - y).norm() / x.norm(), torch.dot(x, y) / x.norm() / y.norm(), item.id, item.person))
    expected.sort()
    found = nearest_items(zoo, lora, 10)
    assert [(n.id, n.person) for n in found] == [(id, person) for _, _, id, person in expected[:10]]
    assert [n.relative_distance for n in found] == pytest.approx([float(e[0]) for e in expected[:10]], rel=1e-6)
    assert [n.cosine for n in found] == pytest.approx([float(e[1]) for e in expected[:10]], rel=1e-5)


def test_item_is_nearest_to_itself_in_any_gauge_and_strength(zoo):
    lora = row_of(zoo, "sd15-110")
    turned = {n: (3 * A, B / 3) for n, (A, B) in lora.layout.split(lora.vector[None]).items()}
    first, second = nearest_items(zoo, LoRA(lora.layout, lora.layout.join(turned)[0]), 2)
    assert (first.id, first.split) == ("sd15-110", "train")
    assert first.relative_distance < 1e-6
    assert first.cosine == pytest.approx(1)
    assert second.relative_distance > 0.5
    half = next(n for n in nearest_items(zoo, lora.scaled(2.0), 65) if n.id == "sd15-110")
    assert (half.relative_distance, half.cosine) == pytest.approx((0.5, 1))


def test_what_has_no_neighbours_is_said_so(zoo, tmp_path):
    assert len(nearest_items(zoo, LoRA.random(layout()), 1_000)) == 65
    with pytest.raises(UsageError, match="expected an update, got zero everywhere"):
        nearest_items(zoo, LoRA(layout(), torch.zeros(layout().num_parameters)))
    with pytest.raises(UsageError, match="expected a count of at least 1, got 0"):
        nearest_items(zoo, LoRA.random(layout()), 0)
    with pytest.raises(LayoutError, match="expected the 2 modules of layout 'sd15'"):
        nearest_items(zoo, LoRA.random(layout(out_features=11)))
    with pytest.raises(ZooError, match="expected LoRAs to compare with, got none"):
        nearest_items(Zoo.create(tmp_path / "empty", layout(), {}, None), LoRA.random(layout()))


def test_commands_export_an_item_that_nearest_finds_again(zoo, tmp_path, monkeypatch, capsys):
    def command(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["lorasynth", "zoo", *map(str, arguments)])
        with pytest.raises(SystemExit, match=rf"^{code}$"):
            main()
        return capsys.readouterr()

    said = command("export", zoo.folder, "--item", "sd15-3", "--item", "sd15-105", "--out", tmp_path / "out")
    files = json.loads(said.out)["files"]
    assert files["sd15-105"] == str(tmp_path / "out" / "sd15-105.safetensors")
    found = json.loads(command("nearest", zoo.folder, files["sd15-105"], "--count", 2).out)["nearest"]
    assert [n["relative_distance"] < 1e-6 for n in found] == [True, False]
    assert found[0]["id"] == "sd15-105"
    said = command("nearest", zoo.folder, tmp_path / "nothing.safetensors", code=2)
    assert len(said.err.splitlines()) == 1
    said = command("export", zoo.folder, "--item", "sd15-3", "--out", tmp_path / "out", code=2)
    assert "exists already" in said.err


def test_rounding_of_float32_changes_no_neighbour(tmp_path):
    """Two ranks that nearly cancel make an update far smaller than its parts, which float32 puts in another order."""
    made = Zoo.create(tmp_path / "zoo", layout(), {"source": "import"}, None)
    g = torch.Generator().manual_seed(0)
    factors = {}
    for name in NAMES:
        row, column = torch.randn(1, 12, generator=g), 30 * torch.randn(1, 10, 1, generator=g)
        nearly = -column * (1 + 1e-3 * torch.randn(60, 10, 1, generator=g))
        factors[name] = row.expand(60, 2, 12), torch.cat([column.expand(60, 10, 1), nearly], dim=2)
    rows = layout().join(factors)
    made.append("shard-00000", list(range(60)), ["train"] * 60, rows, torch.ones(60, 1, 8), "made", "CC0")
    zoo = Zoo.open(made.folder)
    lora = row_of(zoo, "sd15-7")
    x, expected, rough = whole(lora), [], []
    for id, vector, _ in zoo.rows("shard-00000"):
        expected.append((float((x - whole(LoRA(layout(), vector))).norm() / x.norm()), id))
        inner = [float(delta_W_pairs(layout(), a[None], b[None])) for a, b in ((vector, vector), (vector, lora.vector))]
        rough.append((inner[0] - 2 * inner[1], id))
    assert [id for _, id in sorted(rough)] != [id for _, id in sorted(expected)]
    assert [n.id for n in nearest_items(zoo, lora, 60)] == [id for _, id in sorted(expected)]
    assert [n.id for n in nearest_items(zoo, lora, 5)] == [id for _, id in sorted(expected)[:5]]
