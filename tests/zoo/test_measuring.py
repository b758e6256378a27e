"""What a zoo can teach is measured by its weights: where embeddings foretell them, and where each began for itself."""

import json

import pytest
import torch
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import ZooError
from lorasynth.lora.layout import Layout, Module
from lorasynth.zoo import Zoo
from lorasynth.zoo.measuring import measure_weights

LAYOUT = Layout(
    base="toy", modules=tuple(Module(name=n, in_features=40, out_features=24, rank=2) for n in ("a", "b", "c"))
)


def make(folder, shared, num=48, persons=None):
    """LoRAs whose lora_B are linear in a person's embedding, from one lora_A or each from its own."""
    g = torch.Generator().manual_seed(0)
    zoo = Zoo.create(folder, LAYOUT, {"source": "import"}, None)
    faces = torch.nn.functional.normalize(torch.randn(num, 6, generator=g), dim=1)
    one, vectors = torch.randn(3, 2, 40, generator=g), []
    maps = torch.randn(3, 6, 48, generator=g)
    for face in faces:
        A = one if shared else torch.randn(3, 2, 40, generator=g)
        B = (face @ maps).reshape(3, 24, 2) + 0.05 * torch.randn(3, 24, 2, generator=g)
        vectors.append(torch.cat([part.flatten() for module in zip(A, B, strict=True) for part in module]))
    persons = persons or list(range(num))
    zoo.append(
        None,
        persons,
        ["train"] * num,
        torch.stack(vectors),
        faces[:, None],
        "import",
        "x",
        ids=[str(i) for i in range(num)],
    )
    return Zoo.open(folder)


def test_shared_initialisation_teaches_and_is_seen(tmp_path):
    quality = measure_weights(make(tmp_path / "zoo", True), 48)
    assert quality["explained"] > 0.9
    assert quality["overlap"] == pytest.approx(1, abs=1e-3)
    assert quality["overlap_by_chance"] == pytest.approx(2 / 40)
    assert quality["verdict"] == ""


def test_own_initialisations_teach_nothing_and_it_is_said(tmp_path):
    quality = measure_weights(make(tmp_path / "zoo", False), 48)
    assert quality["explained"] < 0.02
    assert quality["overlap"] == pytest.approx(2 / 40, abs=0.02)
    assert quality["verdict"].startswith("this zoo taught nothing")


def test_leaving_one_out_is_what_fitting_without_it_gives(tmp_path):
    """The closed form against 12 fits, each without one LoRA, on updates as matrices."""
    from lorasynth.zoo.measuring import _explained

    g = torch.Generator().manual_seed(1)
    faces, updates = torch.randn(12, 5, generator=g).double(), torch.randn(12, 30, generator=g).double()
    updates[:, :5] += faces
    centred = faces - faces.mean(0)
    weight = 0.1 * float((centred @ centred.T).diagonal().mean())
    # Ridge with the centre of all, as the closed form has it, and an intercept that is not penalised.
    error = of_mean = 0.0
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        X = torch.cat([torch.ones(11, 1).double(), centred[rest]], dim=1)
        penalty = weight * torch.eye(6).double()
        penalty[0, 0] = 0
        beta = torch.linalg.solve(X.T @ X + penalty, X.T @ updates[rest])
        error += float((updates[i] - torch.cat([torch.ones(1).double(), centred[i]]) @ beta).square().sum())
        of_mean += float((updates[i] - updates[rest].mean(0)).square().sum())
    assert _explained(updates @ updates.T, faces, 0.1) == pytest.approx(1 - error / of_mean, abs=1e-9)


def test_several_loras_of_a_person_are_compared(tmp_path):
    quality = measure_weights(make(tmp_path / "zoo", True, persons=[i // 2 for i in range(48)]), 48)
    assert {"same_person", "other_person"} <= quality.keys()


def test_command_measures_an_imported_zoo(tmp_path):
    make(tmp_path / "zoo", False)
    result = CliRunner().invoke(
        app, ["zoo", "info", str(tmp_path / "zoo"), "--measure", "16", "--json", str(tmp_path / "r.json")]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["quality"]["loras"] == 16
    assert record["faults"] == []
    assert "this zoo taught nothing" in result.stderr
    with pytest.raises(ZooError, match="expected at least 8 LoRAs to measure, got 4"):
        measure_weights(Zoo.open(tmp_path / "zoo"), 4)


def test_info_reads_no_more_of_a_shard_than_its_header(tmp_path, monkeypatch):
    from lorasynth.zoo.verify import verify

    zoo = make(tmp_path / "zoo", True)
    shard = zoo.folder / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert verify(zoo.folder, hashes=False).faults == []  # which is what `zoo verify` is for
    assert [fault.code for fault in verify(zoo.folder).faults] == ["altered-lora"]
    shard.write_bytes(content[:-2])
    assert [fault.code for fault in verify(zoo.folder, hashes=False).faults] == ["bad-shard"]
    shard.unlink()
    assert [fault.code for fault in verify(zoo.folder, hashes=False).faults] == ["missing-shard"]
