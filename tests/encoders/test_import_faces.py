"""`zoo import --encoder` by files of face models, from the command to the zoo: real detection, alignment, embedding, refusals."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.encoders import open_photo
from lorasynth.encoders.records import UNKNOWN_LICENCE
from lorasynth.errors import ModelError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.opening import open_encoder
from lorasynth.zoo.importing.pairing import person_number
from lorasynth.zoo.store import Zoo


def photo(side, *corners, colour="grey"):
    """A square photo with faces, as the tests' detector sees them: a red cell of a 20th of the photo each."""
    image, cell = Image.new("RGB", (side, side), colour), side // 20
    for left, top in corners:
        image.paste("red", (left * cell, top * cell, (left + 1) * cell, (top + 1) * cell))
    return image


@pytest.fixture
def models(tmp_path, recogniser, red_scrfd):
    folder = tmp_path / "models"
    folder.mkdir()
    recogniser(name="r.onnx").rename(folder / "w600k_r50.onnx")
    red_scrfd[0].rename(folder / "det_10g.onnx")
    return folder


@pytest.fixture
def loras(tmp_path):
    photos = {
        "good": photo(640, (10, 10)),
        "nobody": photo(640),
        "two": photo(640, (4, 4), (15, 15)),
        "far": photo(240, (10, 10)),
        "text": None,
    }
    layout = Layout.preset("sd15-w2w", rank=1)
    folder = tmp_path / "loras"
    folder.mkdir()
    for seed, (name, image) in enumerate(photos.items()):
        LoRA.random(layout, seed=seed, std=0.1).save(folder / f"{name}.safetensors")
        if image is None:
            (folder / f"{name}.jpg").write_text("no picture")
        else:
            image.save(folder / f"{name}.png")
    return folder


def run(loras, out, encoder):
    arguments = ["zoo", "import", str(loras), "--out", str(out), "--layout", "sd15-w2w", "--licence", "CC0"]
    return CliRunner().invoke(app, [*arguments, "--encoder", str(encoder)], catch_exceptions=True)


@pytest.mark.slow
def test_usable_faces_come_in_and_other_photos_are_named(models, loras, tmp_path):
    result = run(loras, tmp_path / "zoo", models)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["imported"], record["refused"]) == (1, 4)
    lines = [json.loads(line) for line in (tmp_path / "zoo" / "import.jsonl").read_text().splitlines()]
    codes = {line["file"].rpartition("/")[2].partition(".")[0]: line["code"] for line in lines}
    assert codes == {"good": "", "nobody": "no-face", "two": "several-faces", "far": "small-face", "text": "photo"}
    reasons = {line["code"]: line["reason"] for line in lines}
    assert reasons["several-faces"].startswith(f"{loras / 'two.png'}: expected one face, got 2: 0 at left")
    assert "got 48 x 48" in reasons["small-face"]
    zoo = Zoo.open(tmp_path / "zoo")
    (item,) = zoo.items
    assert item.person == person_number("good")
    ((_, _, embedding),) = zoo.rows(item.shard)
    expected = open_encoder(models).embed([open_photo(loras / "good.png")])
    torch.testing.assert_close(embedding, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_licence_is_said_once_and_recorded_with_the_files(models, loras, tmp_path):
    result = run(loras, tmp_path / "zoo", models)
    assert result.stderr.count("licence of its files: unknown: ask who made the file") == 1
    kept = Zoo.open(tmp_path / "zoo").recipe["encoder"]
    assert kept == open_encoder(models).record
    assert kept["licence"] == UNKNOWN_LICENCE
    assert str(tmp_path) not in json.dumps(kept)


@pytest.mark.slow
def test_world_a_face_model_and_other_weights_do_not_mix(models, loras, tmp_path, recogniser):
    assert run(loras, tmp_path / "zoo", models).exit_code == 0
    held = (tmp_path / "zoo" / "manifest.jsonl").read_bytes()
    refused = run(loras, tmp_path / "zoo", "portraits").exception
    assert isinstance(refused, ZooError)
    assert "(kind face), got those of 'portraits' (kind world); use the encoder" in str(refused)
    recogniser(batch=1, name="r.onnx").rename(models / "w600k_r50.onnx")
    assert "(recogniser sha256 " in str(run(loras, tmp_path / "zoo", models).exception)
    assert (tmp_path / "zoo" / "manifest.jsonl").read_bytes() == held


def test_model_that_cannot_be_opened_leaves_nothing_behind(models, loras, tmp_path):
    (models / "det_10g.onnx").unlink()
    assert isinstance(run(loras, tmp_path / "zoo", models).exception, ModelError)
    assert not (tmp_path / "zoo").exists()
