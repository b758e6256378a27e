"""Photos held against each other, on drawn portraits and the world's own encoder: what is left out has its reason."""

import json
import re
import shutil
from pathlib import Path
from zlib import crc32

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.drawn.export import export_people
from lorasynth.encoders import to_image
from lorasynth.encoders.protocol import Reading
from lorasynth.encoders.remarks import Remark
from lorasynth.gallery.check import Report, judge
from lorasynth.gallery.findings import Finding, look_at
from lorasynth.gallery.folder import PhotoGallery
from lorasynth.gallery.forms import PhotoFile
from lorasynth.gallery.trees import FolderTree
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_domain

PEOPLE, PHOTOS = 10, 4


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "people"
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder, size=96, report=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def encoder():
    """With the guard of the synthesizer that comes along. A new one would be fitted to 2,000 portraits, for four seconds."""
    return Synthesizer.from_pretrained().encoder


@pytest.fixture
def people(portraits, tmp_path):
    return shutil.copytree(portraits, tmp_path / "people")


@pytest.fixture
def check(encoder):
    def checked(folder):
        gallery = PhotoGallery.open(FolderTree(folder))
        report = judge(gallery, look_at(gallery, encoder, gallery.files))
        record = report.record(gallery, encoder.record)
        return record, {one["photo"]: one["reason"] for one in record["left_out"]}

    return checked


def call_again(people):
    """Other pictures of a person who is there, under another name."""
    shutil.copytree(people / "100007", people / "again")
    for path in (people / "again").iterdir():
        to_image(get_domain("portraits").photos([100_007], [int(path.stem) + PHOTOS], 96)[0]).save(path)


@pytest.mark.slow
def test_good_photos_are_all_used(people, check):
    record, left_out = check(people)
    assert (record["subjects"], record["photos"], record["usable"]) == (PEOPLE, PEOPLE * PHOTOS, PEOPLE * PHOTOS)
    assert left_out == record["by_reason"] == {}
    assert record["by_subject"]["100003"] == {"photos": PHOTOS, "usable": PHOTOS}
    assert (record["too_few"], record["trainable"], record["notes"]) == ([], PEOPLE, [])
    assert record["within"] > 0.8 > 0.2 > record["between"]


def test_every_fault_of_a_photo_has_its_reason(people, check):
    (people / "100000" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    Image.new("RGB", (20, 20)).save(people / "100000" / "tiny.png")
    Image.effect_noise((96, 96), 90).convert("RGB").save(people / "100001" / "noise.png")
    shutil.copy(people / "100002" / "01.png", people / "100002" / "copy.png")
    shutil.copy(people / "100002" / "02.png", people / "100003" / "zz.png")
    Image.open(people / "100004" / "00.png").resize((80, 80)).save(people / "100004" / "small.jpg", quality=85)
    shutil.move(people / "100005" / "03.png", people / "100006" / "stranger.png")
    call_again(people)
    (people / "again" / "00.png").unlink()
    record, left_out = check(people)
    assert left_out == {
        "100000/broken.jpg": "photo", "100000/tiny.png": "photo", "100001/noise.png": "outside-world",
        "100002/copy.png": "duplicate", "100003/zz.png": "duplicate", "100004/small.jpg": "near-duplicate",
        "100005/03.png": "missing", "100006/stranger.png": "somebody-else",
        "again/01.png": "same-person", "again/02.png": "same-person", "again/03.png": "same-person",
    }  # fmt: skip
    assert record["by_reason"]["photo"] == 2
    assert [pair["subjects"] for pair in record["same_person"]] == [["100007", "again"]]
    assert record["too_few"] == ["again"]
    words = {one["photo"]: one["words"] for one in record["left_out"]}
    assert words["100003/zz.png"] == "is the same file as 100002/02.png, of 100002"
    assert words["100004/small.jpg"] == "is nearly the same picture as 100004/00.png"
    assert words["100000/broken.jpg"].startswith("damaged or cut off JPEG")
    assert "put both into one folder, else give --alike keep" in words["again/01.png"]
    assert record["notes"] == [
        "subjects with fewer than 3 usable photos, which are not trained on: 1; add photos of them"
    ]


def found(name, subject, embedding, **values):
    file = PhotoFile(name=name, subject=subject, size=1)
    grey = bytes(
        int(x) for x in torch.randint(0, 255, (256,), generator=torch.Generator().manual_seed(crc32(name.encode())))
    )
    values = {"sha256": name, "thumb": grey} | values
    return Finding(file=file, embedding=torch.nn.functional.normalize(torch.tensor(embedding), dim=0), **values)


def judged(findings, **values):
    files = tuple(f.file for f in findings)
    return judge(PhotoGallery(tree=FolderTree(Path(".")), files=files, **values), findings)


def test_everybody_as_one_person_is_said_and_nobody_left_out():
    findings = [found(f"{s}/{i}", s, [1.0, 0.01 * i]) for s in "abcd" for i in range(4)]
    report = judged(findings)
    assert isinstance(report, Report)
    assert (report.left_out, report.same_person) == ((), ())
    assert repr(report) == f"Report({len(findings)} photos looked at, 0 files left out)"
    assert re.match(
        "the encoder does not tell the subjects apart: median cosine 1.00 within, 1.00 between", report.notes[0]
    )


def test_subjects_that_look_like_one_stay_when_asked():
    ways = {"a": [1.0, 0.0, 0.0], "b": [1.0, 0.2, 0.0], "c": [0.0, 0.0, 1.0], "d": [0.0, 1.0, 0.0]}
    findings = [found(f"{s}/{i}", s, ways[s]) for s in ways for i in range(4)]
    stranger = found("c/x", "c", [1.0, 0.0, 0.0])
    left_out = judged([*findings, stranger])
    kept = judged([*findings, stranger], keep_alike=True)
    assert {one.reason for one in left_out.left_out} == {"somebody-else", "same-person"}
    assert [one.name for one in kept.left_out] == ["c/x"]
    assert kept.same_person == left_out.same_person
    assert [pair[:2] for pair in kept.same_person] == [("a", "b")]
    assert "pairs of subjects that look like one, and are kept: 1" in kept.notes


def test_two_photos_that_disagree_both_go():
    report = judged([found("a/1", "a", [1.0, 0.0]), found("a/2", "a", [0.0, 1.0])])
    assert {one.name: one.reason for one in report.left_out} == {"a/1": "somebody-else", "a/2": "somebody-else"}


def test_one_stranger_does_not_take_others_along():
    own = [found(f"a/{i}", "a", [1.0, 0.2, 0.0]) for i in range(3)]
    report = judged([*own, found("a/x", "a", [-1.0, 0.0, 1.0]), found("a/y", "a", [-0.9, 0.1, 0.9])])
    assert [one.name for one in report.left_out] == ["a/x", "a/y"]


def test_better_of_near_duplicates_stays():
    pair = [found(f"a/{i}", "a", [1.0, 0.0], quality=quality, thumb=bytes(256)) for i, quality in ((1, 0.2), (2, 0.9))]
    assert [one.name for one in judged(pair).left_out] == ["a/1"]


def test_outcome_does_not_depend_on_order():
    findings = [found(f"{s}/{i}", s, [1.0 + (s == "b"), i / 9, float(s == "c")]) for s in "abc" for i in range(4)]
    assert judged(findings).left_out == judged(findings[::-1]).left_out


class Remarking:
    """An encoder that has the same to say of every photo."""

    record = {"name": "remarking", "licence": "CC0"}  # noqa: RUF012
    dim, image_size = 2, 16

    def __init__(self, *remarks):
        self.remarks = remarks

    def read(self, photos):
        return [Reading(embedding=torch.tensor([1.0, 0.0]), quality=0.5, warnings=self.remarks) for _ in photos]

    def embed(self, photos):
        return torch.stack([reading.embedding for reading in self.read(photos)])


@pytest.mark.parametrize("code", ["blurred", "profile", "doubtful", "drawn"])
def test_blur_and_profile_leave_a_photo_out(tmp_path, code):
    (tmp_path / "a").mkdir()
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a" / "1.png")
    gallery = PhotoGallery.open(FolderTree(tmp_path))
    (seen,) = look_at(gallery, Remarking(Remark("margin", "fills it"), Remark(code, "so it is")), gallery.files)
    if code in ("blurred", "profile"):
        assert (seen.reason, seen.words, seen.warnings) == (code, "so it is", ("fills it",))
    else:
        assert (seen.reason, seen.warnings) == ("", ("fills it", "so it is"))


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.mark.slow
def test_data_check_keeps_alike_subjects_when_asked(people, tmp_path):
    call_again(people)
    (people / "again" / "00.png").unlink()
    for words, usable in (([], PEOPLE * PHOTOS), (["--alike", "keep"], PEOPLE * PHOTOS + 3)):
        result = run("check", people, "--encoder", "portraits", "--json", tmp_path / f"{usable}.json", *words)
        assert result.exit_code == 0, result.output
        record = json.loads((tmp_path / f"{usable}.json").read_text())
        assert record["usable"] == usable
        assert record["data"].get("alike") == ("keep" if words else None)
        assert [pair["subjects"] for pair in record["same_person"]] == [["100007", "again"]]


@pytest.mark.slow
def test_data_check_writes_json_and_page(people, tmp_path):
    (people / "100000" / "<b>.txt.jpg").write_text("no picture")
    result = run(
        "check", people, "--encoder", "portraits", "--json", tmp_path / "c.json", "--html", tmp_path / "c.html"
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "c.json").read_text())
    assert {"subjects", "photos", "usable", "by_subject", "by_reason", "left_out"} <= set(record)
    assert (record["photos"], record["usable"], record["by_reason"]) == (
        PEOPLE * PHOTOS + 1,
        PEOPLE * PHOTOS,
        {"photo": 1},
    )
    page = (tmp_path / "c.html").read_text()
    assert "40 of 41 photos of 10 subjects can be used" in page
    assert "100000/&lt;b&gt;.txt.jpg" in page
    assert "<b>.txt" not in page
    assert "left out: 1 photo" in result.stderr


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (
            "portraits",
            "expected photos, got the drawn world 'portraits'; make photos of it with `lorasynth data export",
        ),
        ("nowhere", "nowhere: expected a folder of photos or a .zip of one, got nothing there"),
        ("hf://datasets/one", r"expected hf://datasets/OWNER/NAME, perhaps with @REVISION"),
    ],
)
def test_data_check_refuses_what_holds_no_photos(photos, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("check", photos, "--encoder", "portraits")
    assert message in str(result.exception)


def test_no_usable_photo_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_text("no picture")
    result = run("check", tmp_path, "--encoder", "portraits", "--json", "-")
    assert json.loads(result.stdout)["by_reason"] == {"photo": 1}
    assert "expected photos that can be used, got none" in str(result.exception)


def test_data_export_is_a_gallery_again(tmp_path):
    result = run("export", "portraits", "--people", 3, "--photos", 2, "--size", 64, "--out", tmp_path / "people")
    assert json.loads(result.stdout) == {"out": str(tmp_path / "people"), "people": 3, "photos": 6, "size": 64}
    gallery = PhotoGallery.open(FolderTree(tmp_path / "people"))
    assert list(gallery.by_subject) == ["100000", "100001", "100002"]
    assert gallery.left_out == ()
    assert [f.caption for f in gallery.files] == get_domain("portraits").captions(
        [100_000, 100_000, 100_001, 100_001, 100_002, 100_002], [0, 1] * 3
    )
    (tmp_path / "people" / "100001" / "01.png").unlink()
    before = (tmp_path / "people" / "100000" / "00.png").stat().st_mtime_ns
    assert (
        run("export", "portraits", "--people", 3, "--photos", 2, "--size", 64, "--out", tmp_path / "people").exit_code
        == 0
    )
    assert len(PhotoGallery.open(FolderTree(tmp_path / "people")).files) == 6
    assert (tmp_path / "people" / "100000" / "00.png").stat().st_mtime_ns == before
    (tmp_path / "people" / "mine.txt").write_text("x")
    refused = run("export", "portraits", "--people", 3, "--out", tmp_path / "people")
    assert "expected an empty folder, got one with 'mine.txt'" in str(refused.exception)
