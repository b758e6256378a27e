"""`data check` by files of face models: real detection and alignment; each photo that is left out has its reason."""

import json

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from lorasynth.cli.app import app


def photo(side, *corners, colour="grey"):
    """A square photo with faces, as the tests' detector sees them: a red cell of a 20th of the photo each."""
    image, cell = Image.new("RGB", (side, side), colour), side // 20
    draw = ImageDraw.Draw(image)
    for line in range(0, side, 6):  # sharp all over, but for the cells
        draw.line([(line, 0), (line, side)], fill="black")
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


def test_photos_without_one_good_face_are_left_out(models, tmp_path):
    photos = {
        "good": photo(640, (10, 10)), "other": photo(640, (6, 9)), "nobody": photo(640),
        "two": photo(640, (4, 4), (15, 15)), "far": photo(240, (10, 10)),
    }  # fmt: skip
    folder = tmp_path / "people" / "ann"
    folder.mkdir(parents=True)
    for name, image in photos.items():
        image.save(folder / f"{name}.png")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "people"), "--encoder", str(models)])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    reasons = {one["photo"]: one["reason"] for one in record["left_out"]}
    assert reasons == {
        "ann/nobody.png": "no-face", "ann/two.png": "several-faces", "ann/far.png": "small-face"
    }  # fmt: skip
    words = {one["reason"]: one["words"] for one in record["left_out"]}
    assert words["several-faces"].startswith("expected one face, got 2")
    assert (record["photos"], record["usable"], record["too_few"]) == (5, 2, ["ann"])
