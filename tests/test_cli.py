"""The command line as a person types it: exit codes, one line, nothing half-written."""

import json
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli import main
from lorasynth.cli.app import app
from lorasynth.encoders.images import open_photo, to_image
from lorasynth.lora.factors import LoRA, delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.worlds.world import get_domain


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "lorasynth", *map(str, arguments)], capture_output=True, text=True, timeout=600, cwd=cwd
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """Function from arguments to exit code and standard error; no socket can be opened meanwhile."""

    def no_socket(*_):
        raise AssertionError("a connection was opened")

    def call(*arguments):
        monkeypatch.setattr(socket.socket, "connect", no_socket)
        monkeypatch.setattr(socket, "getaddrinfo", no_socket)
        monkeypatch.setattr(sys, "argv", ["lorasynth", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d$") as stop, warnings.catch_warnings():
            main()
        return stop.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "person.png"
    to_image(get_domain("portraits").photos([33], [0], 160)[0]).save(path)
    return path


def assert_refused(answer, *said):
    code, err = answer
    assert code == 2, err
    assert "Traceback" not in err
    for words in said:
        assert words in err
    assert len(err.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lorasynth.cli.app import app;"
        "print(sorted(m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
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
        ["import-legacy"],
        ["zoo", "build"],
        ["zoo", "pilot"],
        *(["zoo", verb] for verb in ("resize", "verify", "repair", "forget", "export", "nearest")),
        ["train", "all"],
        ["evaluate"],
    ],
)
def test_every_verb_explains_itself(verb):
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert not verb or "Example: lorasynth " in " ".join(result.stdout.split())


def test_consent_is_required(photo, tmp_path):
    out = tmp_path / "me.safetensors"
    result = run("synthesize", photo, "-o", out)
    assert_refused((result.returncode, result.stderr), "--consent self (it is your face)", "subject", "synthetic")
    assert not out.exists()


def test_bad_photos_are_refused_and_nothing_is_written(here, tmp_path):
    out = tmp_path / "me.safetensors"
    text = tmp_path / "text.png"
    text.write_text("not a picture, only words and words")
    cut = tmp_path / "cut.jpg"
    Image.new("RGB", (200, 200), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    for name in (tmp_path / "none.png", text, cut, tmp_path):
        assert_refused(here("synthesize", name, "-o", out, "--consent", "self"), str(name))
        assert not out.exists()


def test_output_that_exists_or_cannot_be_is_refused(here, photo, tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    assert_refused(here("synthesize", photo, "-o", there, "--consent", "synthetic"), "exists already", "--force")
    assert there.read_text() == "mine"
    assert_refused(
        here("synthesize", photo, "-o", tmp_path / "no" / "x.safetensors", "--consent", "self"), "does not exist"
    )


def test_picture_that_is_no_png_is_refused_before_the_work(here, tmp_path):
    assert_refused(here("render", "-p", "a person", "-o", tmp_path / "me.jpg"), "me.jpg", "ends in .png")
    assert_refused(here("evaluate", "--grid", tmp_path / "sheet"), "sheet", "got no ending")
    assert_refused(
        here("evaluate", "--zoo", tmp_path, "--grid", tmp_path / "sheet.png"), "expected --grid or --zoo, got both"
    )


def test_seen_person_is_refused(here):
    assert_refused(here("demo", "--person", "100000"), "belongs to the zoo people", "--allow-seen")


def test_bad_model_and_a_bad_lora_are_refused(here, photo, tmp_path):
    out = tmp_path / "me.safetensors"
    assert_refused(
        here("synthesize", photo, "-o", out, "--consent", "self", "--model", tmp_path), "config.json: not found"
    )
    assert_refused(here("inspect", photo), str(photo), "expected")
    assert_refused(here("inspect", tmp_path / "none.safetensors"), "none.safetensors")


def test_larger_scale_writes_more_of_the_person(here, photo, tmp_path):
    def norm(name, *more):
        code, err = here("synthesize", photo, "-o", tmp_path / name, "--consent", "synthetic", *more)
        assert code == 0, err
        lora = LoRA.load(tmp_path / name)
        return delta_W_norm2(lora.layout, lora.vector[None]).sqrt().item()

    nobody, less, usual = (
        norm("0.safetensors", "--scale", 0), norm("1.safetensors", "--scale", 0.4), norm("2.safetensors")
    )  # fmt: skip
    assert nobody < less < usual
    code, err = here("synthesize", photo, "-o", tmp_path / "x.safetensors", "--consent", "synthetic", "--scale", 21)
    assert_refused((code, err), "'--scale'", "less than or equal to 20")


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
def test_tiny_recipe_goes_all_the_way(tmp_path):
    zoo, fit = tmp_path / "zoo", tmp_path / "fit"
    built = run("zoo", "build", "portraits_tiny", "--out", zoo)
    assert built.returncode == 0, built.stderr
    info = json.loads(run("zoo", "info", zoo).stdout)
    assert info["splits"] == {"train": 24, "validation": 8}
    assert info["faults"] == []
    trained = run("train", "all", "portraits_tiny", "--zoo", zoo, "--out", fit, "--workers", 2)
    assert trained.returncode == 0, trained.stderr
    outputs = ("--json", tmp_path / "scores.json", "--html", tmp_path / "report.html")
    scored = run("evaluate", fit / "synthesizer", "--people", 2, "--trained-on", zoo, *outputs)
    assert scored.returncode == 0, scored.stderr
    record, report = json.loads((tmp_path / "scores.json").read_text()), (tmp_path / "report.html").read_text()
    methods = record["methods"]
    assert {
        "base",
        "mean",
        "nearest",
        "ridge",
        "regression",
        "adanorm",
        "adalora",
        "fine_tuned",
        "fine_tuned_one_photo",
        "real",
    } <= methods.keys()
    assert methods["real"]["similarity"]["mean"] > 0.8
    assert record["memorisation"]["zoo_loras"] == 24
    assert record["memorisation"]["methods"].keys() == methods.keys() - {
        "base",
        "fine_tuned",
        "fine_tuned_one_photo",
        "real",
    } | {"held_back"}
    assert record["seconds"]["photo_to_lora"]["adalora"] < 60
    assert "data:image/png;base64," in report
    assert "24 training LoRAs" in report


# What people give by mistake.


def encoded(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width, height):
    """A PNG whose header claims a size; there are no pixels behind it."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (64, 64), "red")
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "blue")], "duration": 100}
PNG = encoded(RED, "PNG")
PROFILE_BOMB = PNG[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**28))) + PNG[33:]
BAD_PHOTOS = {
    "109-empty": (b"", "empty file"),
    "109-text": (b"only words and words", "got text"),
    "109-html": (b"<!DOCTYPE html><html></html>", "got HTML"),
    "109-svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "got SVG"),
    "109-pdf": (b"%PDF-1.7\n", "got PDF"),
    "109-heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "got HEIC"),
    "110-cut": (encoded(RED, "JPEG")[:300], "damaged or cut off JPEG"),
    "111-wide-and-high": (png_header(20_000, 20_000), "20000 x 20000"),
    "111-beyond-31-bits": (png_header(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647"),
    "112-one-pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1"),
    "112-a-line": (png_header(1, 60_000), "1 x 60000"),
    "116-gif": (encoded(RED, "GIF", **FRAMES), "got GIF"),
    "116-webp": (encoded(RED, "WEBP", **FRAMES), "got 2 frames"),
    "116-apng": (encoded(RED, "PNG", **FRAMES), "got 2 frames"),
    "118-eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "got PostScript"),
    "118-profile-bomb": (PROFILE_BOMB, "damaged or cut off PNG"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_bad_photo_is_named_in_one_line_and_nothing_written(here, tmp_path, name):
    content, said = BAD_PHOTOS[name]
    path, out = tmp_path / "photo.png", tmp_path / "me.safetensors"
    path.write_bytes(content)
    code, err = here("synthesize", path, "-o", out, "--consent", "self")
    assert code == 2
    assert err.startswith(f"lorasynth: {path}: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_behind_a_picture_is_no_part_of_it(tmp_path):  # row 118: JPEG and zip in one
    plain, polyglot = tmp_path / "plain.jpg", tmp_path / "polyglot.jpg"
    plain.write_bytes(encoded(RED, "JPEG"))
    polyglot.write_bytes(encoded(RED, "JPEG") + b"PK\x03\x04" + bytes(100))
    assert open_photo(polyglot).tobytes() == open_photo(plain).tobytes()


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data", "http://localhost/x.png", "file:///etc/passwd", "http://2130706433/x.png",
        "https://example.com/me.jpg",
    ],
)  # fmt: skip
def test_address_is_no_file_of_any_kind_and_nothing_is_sent(here, tmp_path, address):  # row 122
    out, photo = tmp_path / "me.safetensors", Path(__file__).parents[1] / "docs" / "demo.png"
    zoo = ["--licence", "CC0", "--out", out.with_suffix(".zoo")]
    for verb, said in (
        (["synthesize", address, "-o", out, "--consent", "self"], "expected a photo, got no such file"),
        (["synthesize", photo, "--model", address, "-o", out, "--consent", "self"], "expected a folder, or a hub id"),
        (["synthesize", "--embedding", address, "-o", out, "--consent", "self"], "expected an embedding, one row of numbers"),
        (["inspect", address], "expected a LoRA file, got nothing there"),
        (["convert", address, out], "expected a LoRA file, got nothing there"),
        (["import-legacy", address, out], "nothing there"),
        (["render", "--lora", address, "-p", "x", "-o", out.with_suffix(".png")], "expected a LoRA file, got nothing there"),
        (["render", "--base", address, "-p", "x", "-o", out.with_suffix(".png")], "expected a pipeline's folder"),
        (["zoo", "import", address, *zoo], "expected LoRA files or folders"),
        (["zoo", "import", photo, "--encoder", address, *zoo], "expected an encoder"),
    ):  # fmt: skip
        code, err = here(*verb)
        assert (code, said in err, len(err.splitlines())) == (2, True, 1), (verb, err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["synthesize", "x.png", "-o", "o", "--seed", "-1"], "'--seed'"),
        (["synthesize", "x.png", "-o", "o", "--seed", str(2**64)], "'--seed'"),
        (["synthesize", "x.png", "-o", "o", "--seed", "abc"], "'--seed'"),
        (["synthesize", "x.png", "-o", "o", "--steps", "abc"], "'--steps'"),
        (["render", "-p", "x", "-o", "o.png", "--steps", "0"], "'--steps'"),
        (["render", "-p", "x", "-o", "o.png", "--steps", str(10**9)], "'--steps'"),
        (["render", "-p", "x", "-o", "o.png", "--num-images", str(10**6)], "'--num-images'"),
        (["render", "-p", "x", "-o", "o.png", "--scale", "11"], "'--scale'"),
        (["render", "-p", "x", "-o", "o.png", "--scale", "nan"], "'--scale'"),
        (["render", "-p", "x", "-o", "o.png", "--guidance-scale", "nan"], "'--guidance-scale'"),
        (["render", "-p", "x", "-o", "o.png", "--guidance-scale", "inf"], "'--guidance-scale'"),
        (["zoo", "resize", "z", "--out", "o", "--rank", "0"], "'--rank'"),
        (["zoo", "resize", "z", "--out", "o", "--rank", "1.5"], "'--rank'"),
        (["zoo", "resize", "z", "--out", "o", "--rank", "2"], "z: expected a zoo"),
        (["zoo", "verify", "z"], "z: expected a zoo"),
        (["zoo", "repair", "z"], "z: expected a zoo"),
        (["zoo", "forget", "z", "--person", "1"], "z: expected a zoo"),
        (["zoo", "export", "z", "--item", "a", "--out", "o"], "z: expected a zoo"),
        (["zoo", "nearest", "z", "f", "--count", "0"], "'--count'"),
        (["convert", "x", "o", "--format", "pickle"], "'--format'"),
        (["convert", "x", "o", "--dtype", "int8"], "'--dtype'"),
        (["import-legacy", "x.pt", "o"], "expected a name that ends in .safetensors"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_value_out_of_its_bounds_is_named_and_nothing_is_written(
    here, tmp_path, monkeypatch, arguments, said
):  # row 124
    monkeypatch.chdir(tmp_path)
    code, err = here(*arguments)
    assert code == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 300 + ".safetensors", "no/where.safetensors", "."])
def test_output_that_cannot_be_is_refused_before_the_work(here, tmp_path, monkeypatch, name):  # rows 121, 124
    monkeypatch.chdir(tmp_path)
    code, err = here("convert", "x.safetensors", name)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert len(err) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb", [["inspect", "{lora}"], ["convert", "{lora}", "{out}"], ["convert", "{lora}", "{lora}", "--force"]]
)
def test_results_do_not_take_place_of_what_verb_reads_or_writes(here, tmp_path, verb):
    lora, out = LoRA.random(Layout.preset("sd15-w2w")).save(tmp_path / "lora.safetensors"), tmp_path / "out.safetensors"
    before = lora.read_bytes()
    (tmp_path / "link").symlink_to(lora)
    os.link(lora, tmp_path / "hard")
    arguments = [word.format(lora=lora, out=out) for word in verb]
    places = [
        lora,
        tmp_path / "link",
        tmp_path / "hard",
        tmp_path / "." / lora.name,
        *([out] if "{out}" in verb else []),
    ]
    for place in places:
        code, err = here(*arguments, "--json", place)
        assert code == 2
        assert "expected a file of its own for --json, got what the command reads or writes" in err
    assert lora.read_bytes() == before
    assert not out.exists()
    assert here(*arguments, "--json", tmp_path / "report.json")[0] == 0


def test_results_do_not_go_into_the_folder_that_is_written(here, tmp_path):
    lora, folder = LoRA.random(Layout.preset("sd15-w2w")).save(tmp_path / "lora.safetensors"), tmp_path / "adapter"
    folder.mkdir()
    code, err = here("convert", lora, folder, "--format", "peft", "--json", folder / "adapter_config.json")
    assert (code, "expected a file of its own for --json" in err) == (2, True)
    assert list(folder.iterdir()) == []


def test_reader_that_goes_away_is_no_traceback(tmp_path):  # row 124
    lora = LoRA.random(Layout.preset("sd15-w2w")).save(tmp_path / "lora.safetensors")
    end, pipe = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "lorasynth", "inspect", str(lora)]
    result = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=600)
    os.close(pipe)
    assert result.stderr == ""
    assert result.returncode in (1, 141)  # who notices first, the argument parser's library or we
