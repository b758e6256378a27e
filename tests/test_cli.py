"""The command line as a person types it: exit codes, one line, nothing half-written."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from lorasynth.encoders.images import to_image
from lorasynth.worlds.portraits.draw import photos_of


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "lorasynth", *map(str, arguments)], capture_output=True, text=True, timeout=240, cwd=cwd
    )


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "person.png"
    to_image(photos_of([33], [0], 160)[0]).save(path)
    return path


def assert_refused(result, *said):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lorasynth.cli.app import app;"
        "print(sorted(m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["demo"],
        ["synthesize"],
        ["render"],
        ["inspect"],
        ["convert"],
        ["zoo", "build"],
        ["train", "all"],
        ["evaluate"],
    ],
)
def test_every_verb_explains_itself(verb):
    result = run(*verb, "--help")
    assert result.returncode == 0
    assert not verb or "Example: lorasynth " in " ".join(result.stdout.split())


def test_consent_is_required(photo, tmp_path):
    out = tmp_path / "me.safetensors"
    assert_refused(run("synthesize", photo, "-o", out), "--consent self, subject or synthetic")
    assert not out.exists()


def test_bad_photos_are_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "me.safetensors"
    text = tmp_path / "text.png"
    text.write_text("not a picture, only words and words")
    cut = tmp_path / "cut.jpg"
    Image.new("RGB", (200, 200), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    for name in (tmp_path / "none.png", text, cut, tmp_path):
        assert_refused(run("synthesize", name, "-o", out, "--consent", "self"), str(name))
        assert not out.exists()


def test_output_that_exists_or_cannot_be_is_refused(photo, tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    assert_refused(run("synthesize", photo, "-o", there, "--consent", "synthetic"), "exists already", "--force")
    assert there.read_text() == "mine"
    assert_refused(
        run("synthesize", photo, "-o", tmp_path / "no" / "x.safetensors", "--consent", "self"), "does not exist"
    )


def test_a_picture_that_is_no_png_is_refused_before_the_work(tmp_path):
    assert_refused(run("render", "-p", "a person", "-o", tmp_path / "me.jpg"), "me.jpg", "ends in .png")
    assert_refused(run("evaluate", "--grid", tmp_path / "sheet"), "sheet", "got 'no ending'")


def test_a_seen_person_is_refused():
    assert_refused(run("demo", "--person", "100000"), "belongs to the zoo people", "--allow-seen")


def test_a_bad_model_and_a_bad_lora_are_refused(photo, tmp_path):
    out = tmp_path / "me.safetensors"
    assert_refused(
        run("synthesize", photo, "-o", out, "--consent", "self", "--model", tmp_path), "config.json: not found"
    )
    assert_refused(run("inspect", photo), str(photo), "expected")
    assert_refused(run("inspect", tmp_path / "none.safetensors"), "none.safetensors")


@pytest.mark.integration
def test_photo_to_file_to_picture(photo, tmp_path):
    out, record = tmp_path / "me.safetensors", tmp_path / "record.json"
    made = run("synthesize", photo, "-o", out, "--consent", "synthetic", "--json", record)
    assert made.returncode == 0, made.stderr
    assert json.loads(record.read_text())["seconds"] < 60
    seen = json.loads(run("inspect", out).stdout)
    assert seen["format"] == "kohya"
    assert seen["faults"] == []
    assert seen["metadata"]["lorasynth.consent"] == "synthetic"
    picture = tmp_path / "me.png"
    drawn = run("render", "--lora", out, "-p", "a photo of sks person, smiling", "-o", picture, "--num-images", 2)
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(picture) as image:
        assert image.width > 256
    peft = tmp_path / "adapter"
    assert run("convert", out, peft, "--format", "peft").returncode == 0
    assert json.loads(run("inspect", peft).stdout)["norm"] == pytest.approx(seen["norm"], rel=1e-3)


@pytest.mark.integration
def test_doctor_finds_a_sound_installation():
    result = run("doctor")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["assets"] == "all checksums agree"


@pytest.mark.integration
@pytest.mark.slow
def test_the_tiny_recipe_goes_all_the_way(tmp_path):
    zoo, fit = tmp_path / "zoo", tmp_path / "fit"
    built = run("zoo", "build", "portraits_tiny", "--out", zoo)
    assert built.returncode == 0, built.stderr
    info = json.loads(run("zoo", "info", zoo).stdout)
    assert info["splits"] == {"train": 24, "validation": 8}
    assert info["faults"] == []
    trained = run("train", "all", "portraits_tiny", "--zoo", zoo, "--out", fit, "--workers", 2)
    assert trained.returncode == 0, trained.stderr
    scored = run("evaluate", fit / "synthesizer", "--people", 2, "--json", tmp_path / "scores.json")
    assert scored.returncode == 0, scored.stderr
    methods = json.loads((tmp_path / "scores.json").read_text())["methods"]
    assert {
        "base",
        "mean",
        "nearest",
        "ridge",
        "regression",
        "adanorm",
        "adalora",
        "fine_tuned",
        "real",
    } <= methods.keys()
    assert methods["real"]["similarity"]["mean"] > 0.8
