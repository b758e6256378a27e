"""From fonts to a sheet of alphabets, by the documented commands alone; and scores that know right letters from wrong ones."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import folder
import models
import sheet
from alphabets import GIVEN, THIRTY, Drawing
from drawing import LETTERS
from faces import Survey
from glyph_scores import aligned, l1, similarity, ssim
from lorasynth import LoRA
from lorasynth.cli.app import app
from lorasynth.encoders.images import to_image
from lorasynth.storage.files import write_png
from lorasynth.zoo.adapt import FINE_TUNING

from .fonts import make_families
from .test_typeface_models import few

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PROMPT = "a picture of sks typeface"


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Folders and models of made fonts."""
    top = tmp_path_factory.mktemp("typefaces")
    fonts = make_families(top / "fonts", families=12)
    folder.main(["--fonts", str(fonts), "--out", str(top / "data"), "--photos", "8", "--held-out", "2"])
    for stage in models.STAGES:
        models.main([stage, "--data", str(top / "data"), "--out", str(top / "models")], few())
    return top


@pytest.fixture(scope="module")
def encoder(top):
    return f"aligned:{top / 'models' / 'encoder.onnx'}"


def photos(top, name, encoder):
    data = ("--data", top / "data" / name, "--encoder", encoder, "--instance-prompt", PROMPT, "--alike", "keep")
    return ("--base", top / "models" / "base", *data)


def asked(top):
    """Two of the letters that are asked for: all of them take minutes."""
    path = top / "two.txt"
    path.write_text("".join((top / "data" / "prompts.txt").read_text().splitlines(keepends=True)[:2]))
    return ("--prompts", path)


@pytest.fixture(scope="module")
def fitted(top, encoder):
    """A zoo and a synthesizer, by the documented commands."""
    data = photos(top, "train", encoder)
    run("zoo", "build", "sd15_tiny", *data, "--out", top / "zoo")
    run("train", "all", "sd15_tiny", "--zoo", top / "zoo", *data, *asked(top), "--out", top / "fit")
    return top


def draw(top, out, *, model=True, letters="RagQb", more=()):
    few = replace(FINE_TUNING, steps=2)
    how = Drawing(letters=letters, num_inference_steps=2, on_three=few, on_thirty=few)
    words = ["--data", top / "data", "--models", top / "models", "--zoo", top / "zoo", "--faces", 2, "--out", out]
    words += ["--model", top / "fit" / "synthesizer", *more] if model else []
    return sheet.main([str(word) for word in words], how)


@pytest.fixture(scope="module")
def drawn(fitted, tmp_path_factory):
    out = tmp_path_factory.mktemp("alphabets")
    assert draw(fitted, out) == 0
    return out


def test_check_of_the_folder_finds_every_face(top, encoder, tmp_path):
    run(
        "data",
        "check",
        top / "data" / "train",
        "--encoder",
        encoder,
        "--instance-prompt",
        PROMPT,
        "--json",
        tmp_path / "c.json",
    )
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["subjects"] == len(Survey.load(top / "data" / "faces.json").train)
    assert record["photos"] == 8 * record["subjects"]


def test_commands_lead_from_three_letters_to_a_picture(fitted, encoder, tmp_path):
    face = Survey.load(fitted / "data" / "faces.json").held_out[0]
    letters = [tmp_path / f"{letter}.png" for letter in GIVEN]
    for path, picture in zip(letters, models.letters_of(face, GIVEN), strict=True):
        write_png(path, to_image(picture))
    lora, picture = tmp_path / "face.safetensors", tmp_path / "Q.png"
    run(
        "synthesize",
        *letters,
        "--model",
        fitted / "fit" / "synthesizer",
        "--encoder",
        encoder,
        "--consent",
        "synthetic",
        "-o",
        lora,
    )
    prompt = "the capital letter Q in sks typeface, black on white"
    run("render", "--base", fitted / "models" / "base", "--lora", lora, "-p", prompt, "-o", picture)
    assert LoRA.load(lora, base="sd15").layout.base == "sd15"
    assert picture.exists()


def test_evaluation_scores_every_held_out_face(fitted, encoder, tmp_path):
    second = ("--second-encoder", f"aligned:{fitted / 'models' / 'second.onnx'}")
    words = (
        *photos(fitted, "held-out", encoder),
        *second,
        *asked(fitted),
        "--everybody",
        "--json",
        tmp_path / "s.json",
    )
    run("evaluate", fitted / "fit" / "synthesizer", *words)
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["people"] == len(Survey.load(fitted / "data" / "faces.json").held_out)
    assert {"similarity", "similarity2"} <= set(record["methods"]["adalora"])


def test_sheet_has_scores_of_every_method(drawn):
    record = json.loads((drawn / "scores.json").read_text())
    assert set(record["methods"]) >= {
        "adalora",
        "nearest",
        "mean",
        "ridge",
        "fine_tuned_three",
        "fine_tuned_thirty",
        "base",
        "real",
    }
    assert all(set(row) == {"similarity", "similarity2", "legible", "l1", "ssim"} for row in record["methods"].values())
    assert record["methods"]["real"]["l1"]["mean"] == 0
    assert record["methods"]["real"]["ssim"]["mean"] == pytest.approx(1, abs=1e-4)
    assert set(record["memorisation"]["methods"]) >= {"adalora", "nearest"}
    families = [name.partition("-")[0] for name in record["faces"]]
    assert len(record["faces"]) == 4
    assert len(set(families[:2])) == 2
    assert (drawn / "sheet.png").stat().st_size > 1_000


def test_yardsticks_need_no_synthesizer(fitted, tmp_path, capsys):
    assert draw(fitted, tmp_path, model=False, letters="Ra") == 0
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {"fine_tuned_three", "fine_tuned_thirty", "base"}
    with pytest.raises(SystemExit, match="2"):  # other letters
        draw(fitted, tmp_path, model=False, letters="Rag")
    assert "holds other alphabets (drawing.letters: Ra -> Rag)" in capsys.readouterr().err


def test_priors_are_those_asked_for(fitted, drawn, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        draw(fitted, drawn, more=("--priors", "ridge", "rigde"))
    assert "expected priors among adalora, adanorm, kernel, mean" in capsys.readouterr().err
    assert (
        draw(fitted, shutil.copytree(drawn, tmp_path / "a"), more=("--priors", "ridge", "nearest", "--scale", 1)) == 0
    )
    methods = json.loads((tmp_path / "a" / "scores.json").read_text())["methods"]
    (scaled,) = (name for name in methods if name.endswith("_scale_1"))
    assert set(methods) == {"ridge", "nearest", scaled, "fine_tuned_three", "fine_tuned_thirty", "base", "real"}


def test_second_call_draws_nothing_anew(fitted, drawn, monkeypatch):
    first = (drawn / "scores.json").read_text()
    monkeypatch.setattr("alphabets.render", None)
    draw(fitted, drawn)
    assert (drawn / "scores.json").read_text() == first


def test_letters_to_tune_on_are_thirty_and_hold_the_given():
    assert len(set(THIRTY)) == 30
    assert set(GIVEN) < set(THIRTY) < set(LETTERS)


@pytest.fixture
def letters():
    """White squares of different places on black: four pictures."""
    pictures = torch.zeros(4, 3, 32, 32)
    for i in range(4):
        pictures[i, :, 8 : 14 + i, 10 : 20 - i] = 1
    return pictures


def test_moved_letter_is_as_good_as_a_letter_in_place(letters):
    moved = torch.roll(letters, (2, -3), (2, 3))
    assert l1(moved, letters).min() > 0.01
    assert l1(aligned(moved, letters), letters).max() == 0


def test_similarities_of_pixels_know_right_from_wrong(letters):
    noisy = (letters + 0.01 * torch.randn(letters.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert ssim(letters, letters) == pytest.approx(torch.ones(4), abs=1e-4)
    assert (ssim(noisy, letters) > ssim(1 - letters, letters)).all()
    assert (l1(noisy, letters) < l1(letters.roll(1, 0), letters)).all()


def test_own_letters_are_compared_with_the_others_alone():
    def embed(pictures):
        return torch.nn.functional.normalize(pictures.mean((2, 3)), dim=1)

    pictures = torch.eye(3)[None, :, :, None, None].expand(1, 3, 3, 4, 4)
    assert similarity(embed, pictures, pictures) == pytest.approx(torch.tensor([3**-0.5]))
    assert similarity(embed, pictures, pictures, own=True) == pytest.approx(torch.zeros(1), abs=1e-6)
