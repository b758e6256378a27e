"""A zoo from a folder of photographs on a tiny Stable Diffusion: prepared, built, resumed, forgotten; then fitted to the end."""

import json
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, replace
from fnmatch import fnmatch
from unicodedata import normalize

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.drawn.export import export_people
from lorasynth.errors import LorasynthError, UsageError, ZooError
from lorasynth.evaluate.zoo_quality import open_subjects, zoo_quality
from lorasynth.gallery import PhotoRef, Split, Use
from lorasynth.lora.factors import LoRA
from lorasynth.opening import open_base, open_encoder, open_gallery
from lorasynth.recipes import get_zoo_config
from lorasynth.subjects.photos import PhotoSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.worlds.world import get_domain
from lorasynth.zoo import Zoo
from lorasynth.zoo.build import build_zoo, build_zoo_with_workers
from lorasynth.zoo.forget import forget_person
from lorasynth.zoo.importing.pairing import person_number
from lorasynth.zoo.materials import DrawnMaterial, open_photo_material
from lorasynth.zoo.preservation import Preservation
from lorasynth.zoo.store import FILES

from ..tiny_pipelines import SIZE, pipeline

pytestmark = pytest.mark.integration

PEOPLE, PHOTOS = 14, 6


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "people"
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder, size=64, report=lambda _: None)
    (folder / "100003" / "broken.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny-sd15"
    pipeline("sd15").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(people, base):
    return PhotoSource(
        data=str(people), base=str(base), encoder="portraits", licence="CC0", resolution=SIZE,
        instance_prompt="a photo of sks person",
    )  # fmt: skip


CONFIG = get_zoo_config("sd15_tiny")


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    said = []
    return build_zoo(CONFIG, str(folder), photos=photos, report=said.append), said


def contents(zoo):
    return {
        name: (zoo.folder / name).read_bytes() for name in sorted(p.name for p in zoo.folder.iterdir() if p.is_file())
    }


def test_zoo_of_photographs_holds_its_subjects(built, people):
    zoo, said = built
    gallery = open_gallery(people)
    splits = {s: {person_number(name) for name in gallery.subjects(s)} for s in Split}
    assert {i.person for i in zoo.items if i.split == "train"} == splits[Split.TRAIN]
    assert {i.person for i in zoo.items if i.split == "validation"} == splits[Split.VALIDATION]
    assert not {i.person for i in zoo.items} & (splits[Split.PILOT] | splits[Split.HELD_OUT])
    assert {(i.source, i.licence) for i in zoo.items} == {("photos people", "CC0")}
    assert zoo.layout.base == "sd15"
    assert zoo.recipe["data"] == gallery.record
    assert zoo.recipe["encoder"] == open_encoder("portraits").record
    assert (zoo.recipe["family"], zoo.recipe["picture_size"]) == ("sd15", SIZE)
    assert "84 of 85 photos of 14 subjects are used" in said[0]
    assert zoo.verify() == []
    _, vectors, _ = zoo.load()
    assert len({v.numpy().tobytes() for v in vectors}) == len(zoo)


def test_embeddings_are_of_photos_that_are_given(built, people):
    zoo, _ = built
    lines = [json.loads(line) for line in (zoo.folder / "prepared" / "data.jsonl").read_text().splitlines()]
    given = {}
    for line in lines:
        if line["use"] == "given":
            given.setdefault(person_number(line["subject"]), []).append(line["photo"])
    gallery, encoder = open_gallery(people), open_encoder("portraits")
    persons, _, embeddings = zoo.load()
    for person, stored in zip(persons, embeddings, strict=True):
        names = given[person]
        expected = encoder.embed(gallery.images([PhotoRef(name.partition("/")[0], name, Use.GIVEN) for name in names]))
        assert all((row @ expected.T).max() > 0.999 for row in stored.float())
    broken = next(line for line in lines if line["photo"] == "100003/broken.jpg")
    assert broken["left_out"]["reason"] == "photo"


@pytest.mark.slow
def test_two_workers_and_a_second_call_make_the_same_zoo(built, photos, people, base, tmp_path):
    zoo, _ = built
    words = [
        "zoo",
        "build",
        "sd15_tiny",
        "--data",
        people,
        "--base",
        base,
        "--encoder",
        "portraits",
        "--resolution",
        SIZE,
    ]
    words += ["--licence", "CC0", "--instance-prompt", "a photo of sks person", "--out", tmp_path / "zoo"]
    for extra in (["--workers", "2"], []):
        result = CliRunner().invoke(app, [str(word) for word in [*words, *extra]], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["items"] == len(zoo)
        assert contents(Zoo.open(tmp_path / "zoo")) == contents(zoo)


def test_fewer_subjects_get_a_lora_when_asked(photos, tmp_path):
    zoo = build_zoo(replace(CONFIG, people=3), str(tmp_path / "zoo"), photos=photos, report=None)
    assert Counter(item.split for item in zoo.items) == {"train": 3, "validation": 2}


def test_class_pictures_count_in_every_lora(built, photos, tmp_path, monkeypatch):
    preservation = Preservation(class_prompt="a photo of person", num_class_images=2)
    config = replace(CONFIG, people=2, preservation=preservation)
    zoo = build_zoo(config, str(tmp_path / "zoo"), photos=photos, report=None)
    assert zoo.recipe["preservation"] == asdict(preservation)
    assert len(list((tmp_path / "zoo" / "prepared").glob("class-*/latents.safetensors"))) == 1
    plain = {item.person: vector for item, vector in zip(built[0].items, built[0].load()[1], strict=False)}
    assert all((vector - plain[p]).abs().max() > 0 for p, vector in zip(*zoo.load()[:2], strict=True) if p in plain)
    with pytest.raises(ZooError, match=r"holds a zoo of another recipe \(\['preservation'\]\)"):
        build_zoo(replace(config, preservation=None), str(tmp_path / "zoo"), photos=photos, report=None)
    seen = []

    def train_twice(subjects, people, photos, *_, **__):
        seen.append(photos.class_photos)
        raise InterruptedError

    monkeypatch.setattr("lorasynth.evaluate.zoo_quality.train_twice", train_twice)
    with pytest.raises(InterruptedError):
        zoo_quality(zoo, open_subjects(zoo, photos), 2)
    assert seen[0].count == 2


def test_another_folder_is_another_zoo(built, photos, people, tmp_path):
    zoo = shutil.copytree(built[0].folder, tmp_path / "zoo")
    changed = shutil.copytree(people, tmp_path / "people")
    (changed / "100003" / "broken.jpg").unlink()
    before = {path: path.read_bytes() for path in sorted(zoo.rglob("*")) if path.is_file()}
    for other in (
        {"data": str(changed)},
        {"instance_prompt": "a photo of ohwx woman"},
        {"resolution": 2 * SIZE},
        {"keep_alike": True},
    ):
        with pytest.raises(ZooError, match=r"holds a zoo of another recipe .*(data|size).*; choose another folder"):
            build_zoo(CONFIG, str(zoo), photos=replace(photos, **other), report=None)
    assert {path: path.read_bytes() for path in sorted(zoo.rglob("*")) if path.is_file()} == before


def test_forgotten_subject_is_not_looked_at_again(built, photos, tmp_path):
    folder = shutil.copytree(built[0].folder, tmp_path / "zoo")
    person = next(item.person for item in built[0].items if item.split == "train")
    before = {item.person: item.split for item in built[0].items}
    done = forget_person(folder, person)
    assert not (folder / "prepared").exists()
    assert "prepared/data.jsonl" in done.deleted
    zoo = build_zoo(CONFIG, str(folder), photos=photos, report=None)
    assert {item.person: item.split for item in zoo.items} == {p: s for p, s in before.items() if p != person}
    names = {json.loads(line)["subject"] for line in (folder / "prepared" / "data.jsonl").read_text().splitlines()}
    assert str(person) not in names
    assert len(names) == PEOPLE - 1


def test_what_was_computed_of_photos_is_never_published():
    names = [
        "prepared/data.jsonl",
        "prepared/embeddings-0/part-00000-0.safetensors",
        "prepared/latents-0-32/part-0.safetensors",
    ]
    assert not [name for name in names if any(fnmatch(name, pattern) for pattern in FILES)]


def test_names_of_one_number_are_refused(photos, tmp_path):
    subjects = photos.open(tmp_path / "prepared")
    accents = [normalize(form, letter) for letter in "áéó" for form in ("NFC", "NFD")]  # as file systems change them
    names = dict(zip(subjects.gallery.subjects(Split.TRAIN), accents, strict=False))
    files = tuple(replace(f, subject=names.get(f.subject, f.subject)) for f in subjects.gallery.files)
    renamed = replace(subjects.prepared, gallery=replace(subjects.gallery, files=files))
    with pytest.raises(UsageError, match=r"expected subjects of different numbers, got .*; rename one"):
        PhotoSubjects(subjects.base, renamed, open_encoder("portraits"), data={})


def test_masks_reach_the_training(photos, people, base, tmp_path):
    masked = shutil.copytree(people, tmp_path / "people")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 64, 32))
    for photo in list(masked.glob("*/*.png")):
        mask.save(photo.with_name(photo.stem + "_mask.png"))
    material = open_photo_material(replace(photos, data=str(masked)), CONFIG, tmp_path / "zoo")
    shown = material.photos(material.persons[:2])
    assert shown.masks.shape == (2, CONFIG.photos, 1, 8, 8)
    assert shown.masks[..., :4, :].min() == 1
    assert shown.masks[..., 4:, :].max() == 0
    ignored = open_photo_material(replace(photos, data=str(masked), masks=False), CONFIG, tmp_path / "zoo")
    assert ignored.photos(ignored.persons[:1]).masks is None


def test_photos_of_a_few_come_again(photos, tmp_path):
    material = open_photo_material(photos, CONFIG, tmp_path / "zoo")
    shown = material.photos(material.persons[:1])
    names = [p.name for p in material.subjects.gallery.photos(str(material.persons[0]), Use.FIT, 99)]
    assert len(names) < CONFIG.photos == shown.count
    assert torch.equal(shown.latents[0, 0], shown.latents[0, len(names)])
    assert {material.pilot(0).latents.shape[0]} == {len(material.subjects.gallery.subjects(Split.PILOT))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sd15_tiny"], "expected --data with photographs and --encoder for recipe 'sd15_tiny', got neither"),
        (["sd15_tiny", "--data", "people"], "got no --encoder; give both"),
        *(
            (["portraits_tiny", *words.split()], f"expected {words.split()[0]} with --data, got it alone")
            for words in (
                "--base x",
                "--encoder x",
                "--instance-prompt x",
                "--masks ignore",
                "--alike keep",
                "--licence CC0",
                "--resolution 64",
                "--precision bf16",
                "--gradient-checkpointing",
            )
        ),
        (["portraits_tiny", "--class-prompt", "x"], "expected --class-prompt with --data, got it alone"),
        (
            ["portraits_tiny", "--num-class-images", "9"],
            "expected --num-class-images with --class-prompt, got it alone",
        ),
        (["portraits_tiny", "--prior-loss-weight", "0"], "expected --prior-loss-weight with --class-prompt"),
        (["sd15_tiny", "--data", "people", "--encoder", "portraits", "--class-prompt", " "], "expected a class prompt"),
        (["sd15_faces", "--data", "people", "--encoder", "portraits"], "'sd15_faces', whose zoo is imported"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, tmp_path):
    result = CliRunner().invoke(app, ["zoo", "build", *words, "--out", str(tmp_path / "zoo")])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (tmp_path / "zoo").exists()


def test_base_of_another_family_is_refused_at_once(photos, tmp_path):
    with pytest.raises(UsageError, match=r"tiny-sd15: expected a base of family 'sdxl' for this recipe, got 'sd15'"):
        build_zoo(CONFIG, str(tmp_path / "zoo"), photos=replace(photos, family="sdxl"), report=None)
    assert not (tmp_path / "zoo" / "prepared").exists()


def test_too_few_subjects_are_refused_with_what_to_do(people, photos, tmp_path):
    few = tmp_path / "few"
    for name in ("100000", "100001", "100002"):
        shutil.copytree(people / name, few / name)
    with pytest.raises(
        UsageError, match=r"expected at least 10 subjects with 3 usable photos each.*got 3; add subjects"
    ):
        build_zoo(CONFIG, str(tmp_path / "zoo"), photos=replace(photos, data=str(few)), report=None)
    assert not (tmp_path / "zoo").exists()


def test_drawn_worlds_material_is_the_zoos_of_today():
    material = DrawnMaterial(get_zoo_config("portraits_tiny"))
    assert material.persons == [*range(100_000, 100_024), *range(10_000, 10_008)]
    assert [material.split(p) for p in (100_000, 10_000)] == [Split.TRAIN, Split.VALIDATION]
    assert material.recipe["world"] == "portraits"


def test_mistakes_leave_no_folder_behind(photos, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("lorasynth.zoo.build.helpers", lambda *_: nullcontext([]))  # they are not waited for
    with pytest.raises(LorasynthError, match="expected a rank from 1 to 32, got 64"):
        build_zoo(replace(CONFIG, rank=64), str(tmp_path / "zoo"), photos=photos, report=None)
    assert not (tmp_path / "zoo").exists()
    for wrong in ({"data": str(tmp_path / "empty")}, {"resolution": 33}, {"base": str(tmp_path / "nothing")}):
        with pytest.raises(LorasynthError, match=r"expected|no such folder"):
            build_zoo(CONFIG, str(tmp_path / "zoo"), photos=replace(photos, **wrong), report=None)
        assert not (tmp_path / "zoo").exists()
        with pytest.raises(LorasynthError, match=r"expected|no such folder"):
            build_zoo_with_workers(CONFIG, str(tmp_path / "zoo"), 2, photos=replace(photos, **wrong))
        assert not (tmp_path / "zoo").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_from_a_folder_to_a_lora_that_diffusers_loads(built, base, people, tmp_path):
    zoo, _ = built
    run = CliRunner().invoke(app, ["train", "all", "sd15_tiny", "--zoo", str(zoo.folder), "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    photo, out = str(people / "100001" / "00.png"), str(tmp_path / "me.safetensors")
    model = str(tmp_path / "synthesizer")
    words = ["synthesize", photo, "--model", model, "--encoder", "portraits", "--consent", "synthetic", "-o", out]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    lora = LoRA.load(out, like=zoo.layout)
    assert lora.layout.diff(zoo.layout) == []
    pipe = open_base(str(base), resolution=SIZE).pipe

    def drawn():
        generator = torch.Generator().manual_seed(0)
        size = {"height": SIZE, "width": SIZE, "num_inference_steps": 2}
        return torch.from_numpy(pipe("a photo of sks person", generator=generator, output_type="np", **size).images)

    before = drawn()
    pipe.load_lora_weights(str(tmp_path), weight_name="me.safetensors")
    assert (drawn() - before).abs().max() > 1e-4
