"""A zoo of the pilot's LoRAs alone (--subjects 0): directions for the VAE, and photographs that teach all else."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.drawn.export import export_people
from lorasynth.errors import UsageError, ZooError
from lorasynth.gallery import Role, Split
from lorasynth.opening import open_gallery
from lorasynth.pipeline.stages import train_all
from lorasynth.pipeline.workspace import Workspace
from lorasynth.recipes import get_recipe, get_zoo_config
from lorasynth.storage.files import read_tensors
from lorasynth.teaching import OF_PILOT_ALONE
from lorasynth.worlds.subjects import persons_of, role_of
from lorasynth.worlds.world import get_domain
from lorasynth.zoo import Zoo
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import PILOT_ALONE
from lorasynth.zoo.materials import DrawnMaterial, splits_of_lone_pilot

from ..tiny_pipelines import SIZE, pipeline


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(*words):
    result = run(*words)
    assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    return result


@pytest.fixture(scope="module")
def config():
    usual = get_zoo_config("portraits_tiny")
    short = {"steps": 1, "batch_size": 1}
    return replace(
        usual, people=PILOT_ALONE, photos=1, embedding_photos=1, pilot_people=3, pilot_rounds=2, bank=4,
        pilot=replace(usual.pilot, **short), adapt=replace(usual.adapt, **short),
    )  # fmt: skip


@pytest.fixture(scope="module")
def zoo(config, tmp_path_factory):
    return build_zoo(config, str(tmp_path_factory.mktemp("alone") / "zoo"), report=None)


def test_lone_pilots_people_get_the_only_loras(config, zoo):
    assert sorted(item.person for item in zoo.items) == persons_of(Role.PILOT, 6)
    assert {role_of(item.person) for item in zoo.items} == {Role.PILOT}
    splits = [item.split for item in sorted(zoo.items, key=lambda item: item.person)]
    assert splits == ["train"] * 4 + ["validation"] * 2
    assert len(build_zoo(config, str(zoo.folder), report=None)) == 6, "the same again makes nobody"


def test_lone_pilots_zoo_does_not_grow_into_another(config, zoo):
    with pytest.raises(ZooError, match=r"another recipe \(\['people'\]\)"):
        build_zoo(replace(config, people=8), str(zoo.folder), report=None)
    assert len(Zoo.open(zoo.folder)) == 6


def test_usual_zoos_recipe_says_nothing_of_people(config):
    assert "people" not in DrawnMaterial(replace(config, people=8)).recipe


def test_lone_pilot_bounds_the_components_and_no_other_zoo_does(zoo):
    recipe = get_recipe("portraits_tiny")
    fitted = recipe.fitted_to(zoo).vae
    assert (fitted.num_components, fitted.latent_dim) == (3, 3), "four LoRAs span three directions about their mean"
    other = replace(zoo, recipe={k: v for k, v in zoo.recipe.items() if k != "people"})
    assert recipe.fitted_to(other).vae == recipe.vae


@pytest.mark.parametrize(("count", "choosing"), [(4, 2), (8, 2), (12, 3), (48, 12)])
def test_lone_pilots_last_quarter_chooses(count, choosing):
    splits = list(splits_of_lone_pilot(range(count)).values())
    assert splits == [Split.TRAIN] * (count - choosing) + [Split.VALIDATION] * choosing


def test_pilot_of_three_alone_is_refused_and_leaves_no_folder(config, tmp_path):
    with pytest.raises(UsageError, match=r"expected at least 4 people in a pilot .* got 3"):
        build_zoo(replace(config, pilot_rounds=1), str(tmp_path / "zoo"), report=None)
    assert not (tmp_path / "zoo").exists()


def test_zoo_of_one_person_is_refused(tmp_path):
    result = run("zoo", "build", "portraits_tiny", "--subjects", 1, "--out", tmp_path / "zoo")
    assert "--subjects 0 (the pilot's alone) or at least 2, got 1" in str(result.exception)
    assert not (tmp_path / "zoo").exists()


def test_lone_pilot_without_photographs_is_refused(zoo, tmp_path):
    recipe = replace(get_recipe("sd15_tiny"), family="portraits")
    work = Workspace(recipe=recipe, folder=tmp_path / "fit", zoo_folder=zoo.folder, report=lambda _: None)
    work.__dict__["subjects"] = None  # of a real base without --data
    with pytest.raises(UsageError, match="expected photographs to teach, got none"):
        train_all(work)
    assert not (tmp_path / "fit").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_drawn_pilot_alone_becomes_a_synthesizer(tmp_path):
    folder, fit = tmp_path / "zoo", tmp_path / "fit"
    succeed("zoo", "build", "portraits_tiny", "--subjects", 0, "--out", folder)
    assert OF_PILOT_ALONE in succeed("train", "all", "portraits_tiny", "--zoo", folder, "--out", fit).output
    assert OF_PILOT_ALONE in (fit / "synthesizer" / "README.md").read_text()
    before, after = (read_tensors(fit / place / "vae.safetensors")[0] for place in (".", "end-to-end"))
    assert len(before["logvar.bias"]) == 5, "six LoRAs span five directions about their mean"
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("stem."))


@pytest.mark.slow
@pytest.mark.integration
def test_folders_pilot_alone_becomes_a_synthesizer(tmp_path):
    people, base, folder, fit = (tmp_path / name for name in ("people", "base", "zoo", "fit"))
    export_people(get_domain("portraits"), 72, 3, people, size=64, report=lambda _: None)
    pilot = open_gallery(people).subjects(Split.PILOT)
    pipeline("sd15").save_pretrained(base)
    photos = ("--data", people, "--encoder", "portraits", "--resolution", SIZE)
    succeed("zoo", "build", "sd15_tiny", "--base", base, *photos, "--subjects", 0, "--out", folder)
    assert len(Zoo.open(folder)) == len(pilot) >= 4
    assert "expected photographs to teach" in str(
        run("train", "all", "sd15_tiny", "--zoo", folder, "--out", fit).exception
    )
    succeed("train", "all", "sd15_tiny", "--zoo", folder, *photos, "--steps", 2, "--out", fit)
    made_from = json.loads((fit / "synthesizer" / "config.json").read_text())["made_from"]
    assert made_from["zoo_loras"] == len(pilot) - 2
    assert made_from["teachers"] > 10 * len(pilot)
