"""A LoRA's card: read by huggingface_hub's own classes, and written with the LoRA and its pictures or not at all."""

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import UsageError
from lorasynth.lora.card import lora_card
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def lora():
    return LoRA.random(Layout.preset("sd15-w2w", rank=1))


def run(*words):
    return CliRunner().invoke(app, ["card", *map(str, words)])


@pytest.fixture
def place(tmp_path, lora):
    lora.save(tmp_path / "me.safetensors", metadata={"lorasynth.consent": "subject"})
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    Image.new("RGB", (80, 60), "red").save(tmp_path / "red.jpg", exif=exif)
    return tmp_path


def test_card_has_the_fields_that_the_hub_reads(lora):
    pictures = [("images/1.png", 'sks person, "smiling": a photo')]
    card = ModelCard(
        lora_card(lora, weight_name="me.safetensors", licence="cc-by-4.0", base_model=BASE, pictures=pictures)
    )
    assert card.data.to_dict() == {
        "license": "cc-by-4.0", "base_model": BASE, "instance_prompt": "sks person", "pipeline_tag": "text-to-image",
        "library_name": "diffusers", "tags": ["text-to-image", "diffusers", "lora", "template:sd-lora", "lorasynth"],
        "widget": [{"text": pictures[0][1], "output": {"url": "images/1.png"}}],
    }  # fmt: skip
    assert "<Gallery />" in card.text
    assert f'from_pretrained("{BASE}"' in card.text
    assert "The file does not say" in card.text


def test_card_takes_the_base_that_the_header_names(lora):
    named = LoRA(lora.layout, lora.vector, {"lorasynth.base_model": BASE})
    assert ModelCard(lora_card(named, weight_name="me.safetensors", licence="mit")).data.base_model == BASE


@pytest.mark.parametrize("base", [None, "portraits", "a/b/c", "https://huggingface.co/a/b"])
def test_card_without_a_base_of_the_hub_is_refused(lora, base):
    with pytest.raises(UsageError, match=r"expected the base model's hub id, OWNER/NAME, got .*; give --base-model"):
        lora_card(lora, weight_name="me.safetensors", licence="mit", base_model=base)


@pytest.mark.parametrize("words", [{"licence": " "}, {"instance_prompt": ""}, {"pictures": [("1.png", "two\nlines")]}])
def test_card_refuses_empty_words_and_line_breaks(lora, words):
    with pytest.raises(UsageError, match=r"expected a (licence|instance prompt|prompt) of one line"):
        lora_card(lora, weight_name="me.safetensors", base_model=BASE, **{"licence": "mit"} | words)


def test_card_folder_holds_the_lora_and_pictures_drawn_anew(place):
    done = run(
        place / "me.safetensors", "--out", place / "repo", "--licence", "other", "--base-model", BASE,
        "--picture", place / "red.jpg", "-p", "sks person in red",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    repo = place / "repo"
    assert {p.relative_to(repo).as_posix() for p in repo.rglob("*") if p.is_file()} == {
        "README.md", "me.safetensors", "images/1.png"
    }  # fmt: skip
    assert (repo / "me.safetensors").read_bytes() == (place / "me.safetensors").read_bytes()
    assert not Image.open(repo / "images/1.png").getexif()
    assert b"the artist" not in (repo / "images/1.png").read_bytes()
    text = (repo / "README.md").read_text()
    assert REGEX_YAML_BLOCK.search(text)
    assert "A person who agreed to it" in text


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--picture", "red.jpg"], "expected a --prompt for each --picture, got 0 for 1"),
        (["--picture", "none.jpg", "-p", "x"], "none.jpg"),
        (["--base-model", "portraits"], "expected the base model's hub id"),
    ],
)
def test_card_folder_is_not_begun_by_a_mistake(place, monkeypatch, words, match):
    monkeypatch.chdir(place)
    done = run("me.safetensors", "--out", "repo", "--licence", "mit", "--base-model", BASE, *words)
    assert done.exit_code != 0
    assert match in str(done.exception)
    assert not (place / "repo").exists()


def test_card_folder_is_replaced_with_force_alone(place):
    words = (place / "me.safetensors", "--out", place / "repo", "--licence", "mit", "--base-model", BASE)
    assert run(*words).exit_code == 0
    assert "--force" in str(run(*words).exception)
    assert run(*words, "--force").exit_code == 0
