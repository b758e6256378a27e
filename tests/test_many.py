"""Many people in one call: each file as a call for one makes it, and nobody's bad photo ends the others' work."""

import json

import pytest
import torch
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.encoders.images import to_image
from lorasynth.errors import UsageError
from lorasynth.many import people_of_folder, people_of_table, synthesize_people
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_domain

pytestmark = pytest.mark.integration
MARKS = {"lorasynth.consent": "synthetic"}


@pytest.fixture(scope="module")
def model():
    return Synthesizer.from_pretrained()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two people's photos, and a file that is none."""
    folder = tmp_path_factory.mktemp("people")
    for person, count in (("anna", 2), ("bert", 1)):
        (folder / person).mkdir()
        for i in range(count):
            to_image(get_domain("portraits").photos([len(person) + count], [i], 128)[0]).save(
                folder / person / f"{i}.png"
            )
    (folder / "carl").mkdir()
    (folder / "carl" / "0.png").write_bytes(b"no picture")
    return folder


def lines(out):
    return {line["person"]: line for line in map(json.loads, (out / "report.jsonl").read_text().splitlines())}


def make(model, people, out, **options):
    return synthesize_people(model, people, out, settings={"seed": 3}, metadata=MARKS, report=lambda _: None, **options)


def test_each_file_is_that_of_a_call_for_one(model, photos, tmp_path):
    people = people_of_folder(photos)
    counts = make(model, people, tmp_path / "out")
    assert (counts.made, counts.kept, counts.failed) == (2, 0, 1)
    for person in ("anna", "bert"):
        model(people[person], seed=3).save(
            tmp_path / "one.safetensors", dtype=torch.float16, metadata=MARKS, force=True
        )
        assert (tmp_path / "out" / f"{person}.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    report = lines(tmp_path / "out")
    assert report["anna"]["photos"] == 2
    assert report["bert"]["output"] == "bert.safetensors"
    assert "0.png" in report["carl"]["error"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "anna.safetensors",
        "bert.safetensors",
        "report.jsonl",
    ]


def test_second_call_makes_those_who_are_missing(model, photos, tmp_path):
    people = people_of_folder(photos)
    make(model, people, tmp_path)
    before = (tmp_path / "anna.safetensors").stat().st_mtime_ns
    (tmp_path / "bert.safetensors").unlink()
    counts = make(model, people, tmp_path)
    assert (counts.made, counts.kept, counts.failed) == (1, 1, 1)
    assert (tmp_path / "anna.safetensors").stat().st_mtime_ns == before
    assert lines(tmp_path)["anna"]["kept"] is True
    assert make(model, people, tmp_path, force=True).made == 2


@pytest.mark.parametrize("name", ["../out", "a/b", "", "..", "a\nb", "x" * 300, "."])
def test_name_that_is_no_file_is_refused(model, photos, tmp_path, name):
    counts = make(model, {name: people_of_folder(photos)["bert"]}, tmp_path / "out")
    assert counts.failed == 1
    assert "expected a name that a file can have" in lines(tmp_path / "out")[name]["error"]
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "report.jsonl"]


def test_names_of_other_capitals_do_not_overwrite(model, photos, tmp_path):
    bert = people_of_folder(photos)["bert"]
    counts = make(model, {"Bert": bert, "bert": bert}, tmp_path)
    assert (counts.made, counts.failed) == (1, 1)


def test_table_and_folder_name_the_same_people(photos, tmp_path):
    table = photos / "people.csv"
    table.write_text("Person;Photo\r\nanna;anna\r\nbert;bert/0.png\r\n")
    expected = {person: files for person, files in people_of_folder(photos).items() if person != "carl"}
    said = []
    assert people_of_table(table, said.append) == expected
    assert said == []
    table.write_text("person;photo;foto\nanna;anna;x\n")
    people_of_table(table, said.append)
    assert said == [f"{table}: columns that are not used: foto; those that are read: person, photo"]
    table.unlink()


def test_photo_beside_the_folders_is_nobodys(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "stray.JPG").touch()
    with pytest.raises(UsageError, match=r"got the photo stray\.JPG beside them"):
        people_of_folder(tmp_path)
    with pytest.raises(UsageError, match="expected a sub-folder for each person, got none"):
        people_of_folder(tmp_path / "anna")


def test_verb_makes_many(photos, tmp_path):
    words = [
        "synthesize",
        "--table",
        photos,
        "--out",
        tmp_path / "out",
        "--consent",
        "synthetic",
        "--json",
        tmp_path / "r.json",
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.exception
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["people"], record["made"], record["failed"]) == (3, 2, 1)


def test_verb_that_makes_nothing_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("person,photo\n../../x,a.png\na,nothing.png\n")
    words = ["synthesize", "--table", tmp_path / "t.csv", "--out", tmp_path / "out", "--consent", "synthetic"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, UsageError)
    assert "out: expected photos of which a LoRA can be made, got none; report.jsonl says why" in str(result.exception)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.jsonl"]


@pytest.mark.parametrize(
    "words",
    [
        ["--table", "t.csv"],
        ["--table", "t.csv", "--out", "x", "-o", "y"],
        ["a.png", "--table", "t.csv", "--out", "x"],
        ["a.png", "--out", "x"],
        ["a.png"],
        ["--table", "t.csv", "--out", "x", "--format", "peft"],
    ],
)
def test_verb_refuses_half_a_request(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["synthesize", *words, "--consent", "self"])
    assert isinstance(result.exception, UsageError)
    assert not list(tmp_path.iterdir())
