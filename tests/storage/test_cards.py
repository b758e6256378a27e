"""Cards with pictures: read by huggingface_hub's own classes, kept with a model, and gone with a person who is forgotten."""

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import UsageError
from lorasynth.storage.cards import read_pictures, with_gallery, without_gallery, write_pictures
from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
from lorasynth.worlds.world import get_world
from lorasynth.zoo.card import write_card
from lorasynth.zoo.forget import forget_person
from lorasynth.zoo.store import Zoo

from ..zoo import planted

MODEL = "---\nlicense: mit\ntags:\n- lora\n---\n\n# A model\n\nWords.\n"


def run(*words):
    return CliRunner().invoke(app, ["card", *map(str, words)])


@pytest.fixture
def picture(tmp_path):
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    Image.new("RGB", (80, 60), "red").save(tmp_path / "red.jpg", exif=exif)
    return tmp_path / "red.jpg"


def test_models_gallery_is_the_hubs_widget():
    card = ModelCard(with_gallery(MODEL, ["a [cat]: one", "two"], "model"))
    assert card.data.to_dict() == {
        "license": "mit",
        "tags": ["lora"],
        "widget": [
            {"text": "a [cat]: one", "output": {"url": "images/1.png"}},
            {"text": "two", "output": {"url": "images/2.png"}},
        ],
    }
    assert "# A model\n\n<Gallery />\n\nWords." in card.text


def test_data_sets_gallery_stands_in_its_text():
    card = DatasetCard(with_gallery(MODEL, ["a [cat]", "two"], "dataset"))
    assert "widget" not in card.data.to_dict()
    assert "# A model\n\n![a cat](images/1.png)\n![two](images/2.png)\n\nWords." in card.text
    assert without_gallery(str(card)) == MODEL


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_gallery_takes_the_place_of_an_older_one(kind):
    once = with_gallery(MODEL, ["one"], kind)
    assert with_gallery(with_gallery(MODEL, ["x", "y"], kind), ["one"], kind) == once
    assert with_gallery(once, [], kind) == MODEL


@pytest.mark.parametrize(
    ("card", "prompts", "match"),
    [
        ("---\na: [\n---\n", ["x"], "expected front matter in YAML"),
        ("---\n- a\n---\n", ["x"], "expected front matter in YAML"),
        (MODEL, [" "], "expected a prompt of one line"),
        (MODEL, ["a\nb"], "expected a prompt of one line"),
    ],
)
def test_card_that_cannot_have_a_gallery_is_refused(card, prompts, match):
    with pytest.raises(UsageError, match=match):
        with_gallery(card, prompts, "model")


def test_pictures_beside_the_card_are_not_read(tmp_path):
    write_pictures(tmp_path, [Image.new("RGB", (8, 8))] * 3)
    (tmp_path / "secret.png").write_bytes(b"secret")
    card = "images/1.png images/../secret.png images/2.png images/99.png"
    assert sorted(read_pictures(tmp_path, card)) == ["images/1.png", "images/2.png"]


def test_shipped_synthesizer_shows_a_photo_and_what_it_gives():
    model = Synthesizer.from_pretrained()
    shown = ModelCard(model.card).data.widget
    assert [each["output"]["url"] for each in shown] == list(model.pictures)
    assert len(shown) == 1 + len(get_world(model.base).prompts)
    assert sum(map(len, model.pictures.values())) < 1_000_000


def test_folder_of_a_synthesizer_gets_pictures_that_stay_with_it(tmp_path, picture):
    Synthesizer.from_pretrained().save_pretrained(tmp_path / "model")
    done = run(tmp_path / "model", "--picture", picture, "-p", "sks person")
    assert "--force" in str(done.exception)
    done = run(tmp_path / "model", "--picture", picture, "-p", "sks person", "--force")
    assert done.exit_code == 0, done.output
    model = Synthesizer.from_pretrained(tmp_path / "model")
    assert [each["text"] for each in ModelCard(model.card).data.widget] == ["sks person"]
    assert list(model.pictures) == ["images/1.png"]
    assert b"the artist" not in model.pictures["images/1.png"]
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/images/1.png").read_bytes() == model.pictures["images/1.png"]


def test_zoos_card_loses_its_pictures_with_a_forgotten_person(tmp_path, picture):
    zoo = planted.make_zoo(tmp_path / "zoo")
    assert run(zoo.folder, "--picture", picture, "-p", "two people").exit_code == 0
    assert "![two people](images/1.png)" in (zoo.folder / "README.md").read_text()
    assert Zoo.open(zoo.folder).verify() == []
    gone = forget_person(zoo.folder, zoo.items[0].person)
    assert "images/1.png" in gone.deleted
    assert not (zoo.folder / "images").exists()
    assert "images" not in (zoo.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["empty", "--picture", "red.jpg", "-p", "x"], "expected the folder of a synthesizer or a zoo, got neither"),
        ([DEFAULT_MODEL, "--licence", "mit"], "expected --licence of a LoRA file only"),
        ([DEFAULT_MODEL, "--picture", "red.jpg"], "expected a --prompt for each --picture"),
        (["red.jpg", "--licence", "mit"], "expected --out and --licence for the card of a LoRA; give both"),
    ],
)
def test_card_of_a_folder_refuses_what_does_not_fit(tmp_path, monkeypatch, picture, words, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = run(*words)
    assert match in str(done.exception)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty", "red.jpg"]


@pytest.mark.slow
def test_published_zoo_of_a_drawn_world_shows_four_loras(tmp_path):
    layout = get_world("portraits").base.layout(1)
    zoo = Zoo.create(tmp_path / "zoo", layout, {"world": "portraits", "first_photo": 0}, None)
    vectors = 0.01 * torch.randn(5, layout.num_parameters, generator=torch.Generator().manual_seed(0))
    zoo.append(
        "shard-00000", [*range(10_000, 10_005)], ["train"] * 5, vectors, torch.zeros(5, 1, 512), "made", "CC0-1.0"
    )
    write_card(zoo.folder, zoo.layout, zoo.recipe, Zoo.open(zoo.folder).items)
    assert "images/1.png" in (zoo.folder / "README.md").read_text()
    with Image.open(zoo.folder / "images/1.png") as picture:
        assert picture.size == (3 * 4 * 64, 3 * 2 * 64)


def test_zoo_of_photographs_shows_nobody(tmp_path):
    zoo = planted.make_zoo(tmp_path / "zoo")
    write_card(zoo.folder, zoo.layout, zoo.recipe, zoo.items)
    assert "images/" not in (zoo.folder / "README.md").read_text()
    assert not (zoo.folder / "images").exists()
