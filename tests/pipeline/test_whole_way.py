"""The whole way on a tiny base of each family: photographs to a zoo, training through the base, scores, a file that draws."""

import json
import shutil

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.drawn.export import export_people
from lorasynth.evaluate.methods import FINE_TUNED, FINE_TUNED_ONE_PHOTO, EvaluationConfig
from lorasynth.evaluate.pictures import fine_tune
from lorasynth.gallery import Split
from lorasynth.opening import open_gallery
from lorasynth.recipes import get_recipe
from lorasynth.storage.files import read_tensors
from lorasynth.subjects.source import PhotoSource
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_domain
from lorasynth.zoo import Zoo

from ..tiny_pipelines import FAMILIES, SIZE, clip_folder, drawn, pipeline

PEOPLE, PHOTOS = 13, 6


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "people"
    export_people(get_domain("portraits"), PEOPLE, PHOTOS, folder, size=64, report=lambda _: None)
    return folder


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    return result


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("family", FAMILIES)
def test_photographs_become_a_lora_that_draws(family, people, tmp_path):
    pipe, base = pipeline(family), tmp_path / "base"
    pipe.save_pretrained(base)
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    zoo, fit, model = tmp_path / "zoo", tmp_path / "fit", tmp_path / "fit" / "synthesizer"
    run("zoo", "build", f"{family}_tiny", "--base", base, *photos, "--learning-rate", 0.3, "--out", zoo)
    assert (Zoo.open(zoo).layout.base, Zoo.open(zoo).verify()) == (family, [])
    run("train", "all", f"{family}_tiny", "--zoo", zoo, *photos, "--steps", 4, "--out", fit)
    assert json.loads((fit / "run-end-to-end" / "config.json").read_text())["through"]["loop"]["steps"] == 4
    # 1. VAE and priors went through the base, and settings were chosen by pictures.
    before, after = (read_tensors(fit / place / "vae.safetensors")[0] for place in (".", "end-to-end"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    made_from = json.loads((model / "config.json").read_text())["made_from"]
    assert set(made_from["settings_tried"]) >= {"adalora", "ridge"}
    assert made_from["similarity"].keys() == {"base", "best"}
    default = json.loads((model / "config.json").read_text())["default_prior"]
    settings = json.loads((model / "config.json").read_text())["settings"]
    assert settings["adalora"]["num_inference_steps"] == 2  # the recipe's, through which the prior was trained
    assert all(0 <= part <= 1 for parts in made_from["obeyed"].values() for part in parts.values())
    assert 1 <= made_from["chosen_on"] <= 2
    assert (
        "show what was asked for as often as at scale 0, or less by at most 0.05" in (model / "README.md").read_text()
    )
    assert made_from["obeyed"][default]
    assert made_from["end_to_end"]["likeness_after"] >= made_from["end_to_end"]["likeness_before"]
    # 2. Scores are of the held-out subjects, beside LoRAs fine-tuned on one photo and on all.
    run("evaluate", model, *photos, "--methods", "adalora,fine_tuned,fine_tuned_one_photo", "--json", tmp_path / "e.json",
        "--html", tmp_path / "e.html", "--trained-on", zoo, "--clip", clip_folder(tmp_path / "clip"))  # fmt: skip
    record = json.loads((tmp_path / "e.json").read_text())
    assert set(record["methods"]) == {"adalora", "fine_tuned", "fine_tuned_one_photo", "real"}
    assert record["people"] == len(open_gallery(people).subjects(Split.HELD_OUT))
    assert record["methods"]["real"]["similarity"]["mean"] > 0.8
    assert {"similarity2", "text_alignment"}.isdisjoint(record["methods"]["real"])
    assert -1 < record["methods"]["adalora"]["text_alignment"]["mean"] < 1
    assert "Text alignment" in (tmp_path / "e.html").read_text()
    assert {name for name, scores in record["methods"].items() if "prompt" in scores.get("obeyed", {})} == {
        "adalora", "fine_tuned", "fine_tuned_one_photo",
    }  # fmt: skip
    assert "by a diffusion classifier" in (tmp_path / "e.html").read_text()
    # 3. One photo becomes a file that plain diffusers draws with.
    photo = max(people.glob("*/00.png"))
    run(
        "synthesize",
        photo,
        "--model",
        model,
        "--encoder",
        "portraits",
        "--consent",
        "self",
        "--format",
        "diffusers",  # kohya's names know no transformer as tiny as these
        "-o",
        tmp_path / "me.safetensors",
    )

    plain = drawn(pipe)
    pipe.load_lora_weights(tmp_path, weight_name="me.safetensors")
    assert (drawn(pipe) - plain).abs().max() > 1e-4


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """A zoo on a tiny Stable Diffusion, and the stages before pictures are needed."""
    folder = tmp_path_factory.mktemp("trained")
    pipeline("sd15").save_pretrained(folder / "base")
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    run("zoo", "build", "sd15_tiny", "--base", folder / "base", *photos, "--out", folder / "zoo")
    for stage in ("vae", "prior"):
        run("train", stage, "sd15_tiny", "--zoo", folder / "zoo", "--out", folder / "fit")
    return folder


@pytest.mark.slow
def test_stages_one_by_one_end_in_a_synthesizer(people, trained):
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    for stage in ("refine", "end-to-end", "settings"):
        run("train", stage, "sd15_tiny", "--zoo", trained / "zoo", *photos, "--out", trained / "fit")
    model = Synthesizer.from_pretrained(trained / "fit" / "synthesizer", encoder="portraits")
    assert model.base == str(trained / "base")
    assert model.record["subject"] == "sks person"
    assert {path.stem for path in (trained / "fit" / "refined").glob("*.safetensors")} == {"adalora", "adanorm"}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train end-to-end sd15_tiny --zoo ZOO --out OUT", "expected photographs to train through the base"),
        ("train end-to-end sd15_tiny --zoo ZOO --out OUT --data PEOPLE", "got no --encoder; give both"),
        ("train all sd15_tiny --zoo ZOO --out OUT --encoder portraits", "expected --encoder with --data, got it alone"),
        ("train all sd15_tiny --zoo ZOO --out OUT --steps 4", "expected --steps with --data, got no photographs"),
        ("train all sdxl_tiny --zoo ZOO --out OUT --data PEOPLE --encoder portraits", "expected a zoo of family 'sdxl'"),
        ("train refine sd15_tiny --out OUT --data PEOPLE --encoder portraits", "expected --zoo with --data"),
        ("evaluate --everybody", "expected --everybody with --data"),
        ("evaluate --methods ada,base --people 2", "expected methods among base, adalora"),
        ("evaluate --zoo ZOO --data PEOPLE --encoder portraits", "expected --data or --zoo, got both"),
        ("evaluate --zoo ZOO --clip PEOPLE", "expected --clip or --zoo, got both"),
        ("evaluate --zoo ZOO --workers 2", "expected --workers or --zoo, got both"),
    ],
)  # fmt: skip
def test_photo_options_that_do_not_go_together(words, message, people, trained, tmp_path):
    places = {"ZOO": trained / "zoo", "OUT": tmp_path / "out", "PEOPLE": people}
    result = CliRunner().invoke(app, [str(places.get(word, word)) for word in words.split()])
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_zoo_of_another_encoder_is_refused_before_photos(people, trained, tmp_path):
    zoo = shutil.copytree(trained / "zoo", tmp_path / "zoo", ignore=lambda *_: ["prepared"])
    said = json.loads((zoo / "zoo.json").read_text())
    said["recipe"]["encoder"]["dim"] = 256
    (zoo / "zoo.json").write_text(json.dumps(said))
    words = (
        "train",
        "all",
        "sd15_tiny",
        "--zoo",
        zoo,
        "--out",
        tmp_path / "out",
        "--data",
        people,
        "--encoder",
        "portraits",
    )
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "give the encoder that the zoo was made with" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert not (zoo / "prepared").exists()


@pytest.fixture
def model(people, trained):
    """The synthesizer's folder."""
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    if not (trained / "fit" / "synthesizer").exists():
        for stage in ("end-to-end", "settings"):
            run("train", stage, "sd15_tiny", "--zoo", trained / "zoo", *photos, "--out", trained / "fit")
    return trained / "fit" / "synthesizer"


@pytest.mark.slow
def test_workers_choose_the_same_settings(people, trained, model, tmp_path):
    shutil.copytree(trained / "fit", tmp_path / "fit", ignore=shutil.ignore_patterns("synthesizer"))
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    run("train", "settings", "sd15_tiny", "--zoo", trained / "zoo", *photos, "--out", tmp_path / "fit", "--workers", 2)
    one, two = (
        json.loads((fit / "synthesizer" / "config.json").read_text()) for fit in (trained / "fit", tmp_path / "fit")
    )
    assert one["settings"].keys() >= {"adalora", "ridge"}
    assert one == two


@pytest.mark.slow
def test_workers_share_the_fine_tuning(people, model, tmp_path):
    rows = (FINE_TUNED_ONE_PHOTO, FINE_TUNED)
    words = ("evaluate", model, "--data", people, "--encoder", "portraits", "--resolution", SIZE, "--everybody")
    for workers in ("1", "2"):
        run(*words, "--methods", ",".join(rows), "--workers", workers, "--cache", tmp_path / workers, "--json",
            tmp_path / f"{workers}.json")  # fmt: skip
    one, two = (json.loads((tmp_path / f"{workers}.json").read_text())["methods"] for workers in "12")
    assert one == two
    source = PhotoSource(data=str(people), base="", encoder="portraits", resolution=SIZE, everybody=True)
    fine_tune(model, source, tmp_path / "worker", EvaluationConfig(methods=rows), "cpu")
    kept = [{p.name: p.read_bytes() for p in (tmp_path / place).glob("fine-tuned-*")} for place in ("1", "2", "worker")]
    assert len(kept[0]) == 4  # 13 people, ten at once, on one photo and on all
    assert kept[0] == kept[1] == kept[2]
    assert not list(tmp_path.glob("*/.leases"))


@pytest.mark.slow
def test_prompts_of_a_file_are_what_is_asked_for(people, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a painting of [trigger]\n\n  a photo of [trigger] in the garden\n")
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE, "--prompts", tmp_path / "prompts.txt")
    run("evaluate", model, *photos, "--methods", "base", "--everybody", "--json", tmp_path / "e.json",
        "--grid", tmp_path / "e.png")  # fmt: skip
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["prompts"] == ["a painting of sks person", "a photo of sks person in the garden"]
    assert record["people"] == PEOPLE
    assert Image.open(tmp_path / "e.png").width > SIZE


def test_recipes_of_a_family_differ_in_steps_alone():
    """The tiny recipe walks the same stages."""
    whole, tiny = get_recipe("sd15"), get_recipe("sd15_tiny")
    assert (whole.family, whole.refined_apart, whole.gauge) == (tiny.family, tiny.refined_apart, tiny.gauge)
    assert tiny.end_to_end.through.loop.steps < whole.end_to_end.through.loop.steps
    assert whole.end_to_end.through.states == tiny.end_to_end.through.states == "drawn"
