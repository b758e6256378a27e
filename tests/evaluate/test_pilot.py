"""A pilot in the drawn world and on a tiny Stable Diffusion: measured, kept, gone on with, and taken by a build."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.drawn.export import export_people
from lorasynth.errors import UsageError
from lorasynth.evaluate.pilot import PilotConfig, open_pilot
from lorasynth.evaluate.pilot_record import as_table, read_candidates
from lorasynth.evaluate.pilot_search import choose
from lorasynth.evaluate.zoo_quality import only_group, repeatability
from lorasynth.gallery import Role, Split
from lorasynth.lora.factors import delta_W_norm2
from lorasynth.lora.layout import Layout, Module
from lorasynth.opening import open_gallery
from lorasynth.recipes import get_zoo_config
from lorasynth.worlds.subjects import role_of
from lorasynth.worlds.world import get_domain
from lorasynth.zoo import Zoo
from lorasynth.zoo.settings import ZooSettings

from ..tiny_pipelines import SIZE, pipeline

ZOO = get_zoo_config("portraits_tiny")
PEOPLE, PHOTOS = 12, 6


def pilot(folder, **settings):
    said = []
    config = PilotConfig(**({"zoo": ZOO, "subjects": 4} | settings))
    return open_pilot(config, None, folder, report=said.append), said


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Rank 1 of the tiny recipe, and rank 2, at a learning rate by which six steps teach something."""
    folder = tmp_path_factory.mktemp("pilot")
    zoo = ZooSettings(**ZooSettings.of(ZOO).__dict__ | {"learning_rate": 0.15}).applied(ZOO)
    found, said = pilot(folder, zoo=zoo, factors=("rank",))
    return found, found.run(), said, zoo


@pytest.mark.slow
def test_two_candidates_are_measured_and_one_is_chosen(drawn):
    found, record, _, _ = drawn
    one, two = record["candidates"]
    assert (one["settings"]["rank"], two["settings"]["rank"]) == (1, 2)
    assert two["parameters"] == 2 * one["parameters"]
    for candidate in (one, two):
        assert 0 < candidate["gain"] == pytest.approx(candidate["similarity"]["mean"] - record["base_similarity"])
        assert 0 < candidate["agreement_centred"] <= 1
        assert set(candidate["groups"]) == {"attn1", "ff"}
        assert min(candidate["norm"], candidate["seconds"]) > 0
    assert record["learned"]
    assert json.loads((found.folder / "pilot.json").read_text()) == record
    settings = json.loads((found.folder / "settings.json").read_text())
    assert settings == {"format": 1, "family": "portraits"} | record["chosen"]["settings"]


@pytest.mark.slow
def test_those_measured_did_not_teach_lora_A(drawn):
    _, record, _, _ = drawn
    assert not set(record["taught"]) & set(record["measured"])
    assert {role_of(person) for person in record["taught"] + record["measured"]} == {Role.PILOT}


@pytest.mark.slow
def test_pilot_goes_on_where_it_was(drawn):
    found, record, said, zoo = drawn
    assert sum(line.startswith("candidate ") for line in said) == 2
    again, said = pilot(found.folder, zoo=zoo, factors=("rank",))
    assert again.run() == record
    assert not [line for line in said if line.startswith("candidate ")]
    assert len(said) == 3  # the table
    assert [line[0] for line in said].count("*") == 1


@pytest.mark.slow
def test_other_pilots_folder_is_refused_untouched(drawn):
    found, _, _, zoo = drawn
    before = (found.folder / "pilot.json").read_bytes()
    with pytest.raises(UsageError, match=r"expected a pilot of the same settings, got another \(photos: 4 -> 5\)"):
        pilot(found.folder, zoo=replace(zoo, photos=5), factors=("rank",))[0].run()
    assert (found.folder / "pilot.json").read_bytes() == before


@pytest.mark.slow
def test_bad_learning_rate_loses_in_the_drawn_world(tmp_path):
    found, said = pilot(tmp_path)
    start = ZooSettings.of(ZOO)
    good = found.candidate(replace(start, learning_rate=0.15))
    bad = found.candidate(replace(start, learning_rate=15.0))
    nothing = found.candidate(replace(start, learning_rate=float("3e38")))
    assert bad.value < good.value / 2
    assert nothing.diverged
    assert choose([nothing, bad, good]) is good
    assert said[-1].startswith("expected a pilot that learns, got one that diverged at learning rate 3e+38")


def test_diverged_candidate_is_kept_and_shown(tmp_path):
    of = {"photos": 4}
    diverged = {"settings": ZooSettings.of(ZOO).to_dict(), "modules": "usual", "parameters": 9, "values": None}
    record = {"format": 1, "of": of, "base_similarity": 0.1, "candidates": [diverged]}
    (tmp_path / "pilot.json").write_text(json.dumps(record))
    assert read_candidates(tmp_path, of) == [diverged]
    assert read_candidates(tmp_path / "new", of) == []
    head, line = as_table([diverged], diverged)
    assert line.split() == ["*", "0.05", "0.002", "6", "1", "usual", "diverged", *"-----"]
    assert head.split()[:3] == ["learning", "rate", "epsilon"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder / "people", size=64, report=lambda _: None)
    pipeline("sd15").save_pretrained(folder / "base")
    return folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_zoo_is_built_with_what_the_pilot_found(photographs, tmp_path):
    given = (
        "--base",
        photographs / "base",
        "--data",
        photographs / "people",
        "--encoder",
        "portraits",
        "--resolution",
        SIZE,
    )
    start = ZooSettings(steps=3, learning_rate=0.01, adam_epsilon=1e-4, rank=2)
    start.write(tmp_path / "start.json", "sd15")
    words = ("zoo", "pilot", "sd15_tiny", *given, "--factors", "targets", "--out", tmp_path / "pilot")
    result = run(*words, "--settings", tmp_path / "start.json", "--bank", 1, "--batch-size", 1, "--rank", 1)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "pilot" / "pilot.json").read_text())
    # 0. It starts from the file, but for what is said in the command.
    assert record["candidates"][0]["settings"] == {**start.to_dict(), "rank": 1}
    assert (record["of"]["bank"], record["of"]["adapt"]["batch_size"], record["of"]["pilot"]["batch_size"]) == (1, 1, 1)
    # 1. The usual modules of the family are its attention, which is tried once.
    assert [candidate["modules"] for candidate in record["candidates"]] == ["usual", "attention+ff", "linear"]
    assert set(record["candidates"][2]["groups"]) > {"attn1", "attn2", "ff"}
    pilots = set(map(int, open_gallery(photographs / "people").subjects(Split.PILOT)))
    assert set(record["taught"]) == set(record["measured"]) == pilots  # two: too few to divide
    # 2. What the pilot wrote is what the zoo is built with, but for what is said in the command.
    settings = json.loads((tmp_path / "pilot" / "settings.json").read_text())
    settings |= {"targets": ["attn2.to_v", "ff.net.2"], "steps": 2}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    build = ("zoo", "build", "sd15_tiny", *given, "--settings", tmp_path / "settings.json", "--out", tmp_path / "zoo")
    result = run(*build, "--learning-rate", 0.25)
    assert result.exit_code == 0, result.output
    zoo = Zoo.open(tmp_path / "zoo")
    assert {name.rpartition("0.")[2] for name in zoo.layout.slices} == {"attn2.to_v", "ff.net.2"}
    assert (zoo.recipe["adapt"]["steps"], zoo.recipe["adapt"]["learning_rate"]) == (2, 0.25)
    assert zoo.recipe["targets"] == settings["targets"]
    # 3. The same again changes nothing; without the settings it is another zoo.
    assert run(*build, "--learning-rate", 0.25).exit_code == 0
    assert "another recipe" in str(run("zoo", "build", "sd15_tiny", *given, "--out", tmp_path / "zoo").exception)
    # 4. `zoo info --measure` measures the zoo as the pilot measured candidates.
    measure = ("zoo", "info", tmp_path / "zoo", "--measure", 2, "--json", tmp_path / "info.json")
    result = run(*measure, *given)
    assert result.exit_code == 0, result.output
    quality = json.loads((tmp_path / "info.json").read_text())["quality"]
    assert set(quality["groups"]) == {"attn2", "ff"}
    assert quality["people"] == 1
    assert -1 <= quality["likeness"]["mean"] <= 1
    assert "expected --data with --measure" in str(run("zoo", "info", tmp_path / "zoo", *given).exception)
    assert "give --resolution 32" in str(run(*measure, "--force", *given[:-1], 64).exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zoo pilot sd15_tiny --out OUT", "expected --data with photographs and --encoder for recipe 'sd15_tiny'"),
        ("zoo pilot portraits_tiny --factors lr --out OUT", "expected --factors among learning_rate"),
        ("zoo pilot portraits_tiny --base BASE --out OUT", "expected --base with --data, got it alone"),
        ("zoo pilot imported --out OUT", "expected a recipe that makes a zoo, got 'imported'"),
        ("zoo pilot portraits_tiny --settings SETTINGS --out OUT", "expected settings for a base of family 'portraits'"),
        ("zoo pilot portraits_tiny --bank some --out OUT", "expected --bank auto or a number from 1 to 100000, got 'some'"),
        ("zoo build portraits_tiny --settings SETTINGS --out OUT", "expected settings for a base of family 'portraits'"),
        ("zoo build portraits_tiny --settings OUT/settings.json --out OUT", "not found"),
    ],
)  # fmt: skip
def test_wrong_pilots_are_refused_and_write_nothing(words, message, tmp_path):
    settings = tmp_path / "settings.json"
    ZooSettings.of(ZOO).write(settings, "sdxl")
    places = {"OUT": tmp_path / "out", "SETTINGS": settings, "OUT/settings.json": tmp_path / "out" / "settings.json"}
    result = run(*(places.get(word, word) for word in words.split()))
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["{", '{"format": 2}', '{"format": 1, "of": {}, "base_similarity": 0, "candidates": [{}]}']
)
def test_damaged_pilot_is_refused(text, tmp_path):
    (tmp_path / "pilot.json").write_text(text)
    with pytest.raises(UsageError, match="give another --out, or remove the file"):
        pilot(tmp_path)[0].run()
    assert (tmp_path / "pilot.json").read_text() == text


def test_photographs_of_a_zoo_without_any_are_refused(tmp_path):
    layout = Layout(base="b", modules=(Module(name="to_v", in_features=2, out_features=3, rank=1),))
    Zoo.create(tmp_path / "zoo", layout, {"world": "portraits"}, torch.zeros(layout.num_parameters))
    words = ("zoo", "info", tmp_path / "zoo", "--measure", 2, "--data", tmp_path, "--encoder", "portraits")
    assert "expected --data for a zoo that was built from photographs" in str(run(*words).exception)


def test_pilot_of_one_cannot_compare(tmp_path):
    with pytest.raises(UsageError, match="expected at least 2 pilot subjects to compare, got 1"):
        pilot(tmp_path, subjects=1)


def test_module_groups_take_the_rest_away():
    modules = [Module(name=f"blocks.0.{n}", in_features=2, out_features=3, rank=1) for n in ("attn1.to_v", "ff.net.2")]
    layout = Layout(base="b", modules=tuple(modules))
    ones = torch.ones(2, layout.num_parameters)
    kept = layout.split(only_group(layout, ones, "ff"))
    assert kept["blocks.0.ff.net.2"][1].eq(1).all()
    assert kept["blocks.0.attn1.to_v"][1].eq(0).all()
    assert delta_W_norm2(layout, ones).tolist() == [12, 12]
    assert ones.eq(1).all()


def test_one_subject_alone_has_no_centred_agreement():
    layout = Layout(base="b", modules=(Module(name="to_v", in_features=2, out_features=3, rank=1),))
    one = torch.ones(1, layout.num_parameters)
    assert repeatability(layout, one, one, one[0]) == {"agreement": pytest.approx(1.0)}
