"""Recipes of real bases: from imported LoRA files of SD1.5's true layout to a synthesizer; what does not fit is said."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import lorasynth.recipes
import lorasynth.storage.rows
import lorasynth.zoo.rows
from lorasynth.cli.app import app
from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.factors import LoRA, delta_W_norm2
from lorasynth.lora.layout import Layout
from lorasynth.opening import open_encoder
from lorasynth.pipeline import assembling, tuning
from lorasynth.pipeline.fitting import fit_prior_stage, fit_vae_stage
from lorasynth.pipeline.workspace import Workspace
from lorasynth.prior import PriorConfig
from lorasynth.recipes import RECIPES, get_recipe
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig
from lorasynth.vae import VAEConfig
from lorasynth.zoo import Zoo
from lorasynth.zoo.manifest import Item

pytestmark = pytest.mark.integration

LORAS = 40


def tiny(name="sd15_faces"):
    """The recipe with networks for a few seconds and a few LoRAs."""
    loop = LoopConfig(steps=20, warmup_steps=2, validate_every=10)
    return replace(
        get_recipe(name),
        vae=VAEConfig(stem="principal", num_components=6, local_numbers=10**6, latent_dim=4, hidden_dim=8, loop=loop),
        priors=tuple(PriorConfig(conditioning=c, width=16, depth=1, loop=loop) for c in ("adalora", "adanorm")),
        regression=loop,
    )  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Kohya files of weights2weights' layout that follow a hidden number each, and embeddings that follow it too."""
    folder = tmp_path_factory.mktemp("loras")
    layout, g = Layout.preset("sd15-w2w"), torch.Generator().manual_seed(0)
    mean, direction = 0.05 * torch.randn(2, layout.num_parameters, generator=g)
    face, towards = torch.randn(2, 512, generator=g)
    for n in range(LORAS):
        code = torch.randn((), generator=g)
        noise = 0.005 * torch.randn(layout.num_parameters, generator=g)
        LoRA(layout, mean + code * direction + noise).save(folder / f"{n}.safetensors")
        np.save(folder / f"{n}.npy", (face + code * towards + 0.05 * torch.randn(512, generator=g)).numpy())
    return folder


def bring_in(loras, out, *options):
    result = run(
        "zoo", "import", loras, "--layout", "sd15-w2w", "--out", out, "--licence", "CC-BY-4.0",
        "--validation", 0.2, "--held-out", 0.2, "--json", out.parent / f"{out.name}.json", *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def zoo(loras, tmp_path_factory):
    return bring_in(loras, tmp_path_factory.mktemp("zoo") / "zoo", "--encoder", "portraits")


@pytest.fixture
def tiny_recipes(monkeypatch):
    monkeypatch.setattr(lorasynth.recipes, "get_recipe", tiny)


@pytest.fixture(scope="module")
def fit(zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lorasynth.recipes, "get_recipe", tiny)
        result = run("train", "all", "sd15_faces", "--zoo", zoo, "--out", out, "--json", out.parent / "record.json")
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("name", ["sd15_faces", "sd15_faces_small", "sdxl_faces"])
def test_recipe_of_a_real_base_is_whole(name):
    recipe = get_recipe(name)
    assert recipe.world is None
    assert recipe.name == name
    layout = Layout.preset(recipe.layout)
    recipe.check_layout(layout)
    recipe.check_layout(Layout.preset(recipe.layout, rank=4))
    first, *others = layout.modules
    recipe.check_layout(replace(layout, modules=(replace(first, rank=8), *others)))
    with pytest.raises(ZooError, match=f"{first.name} is missing"):
        recipe.check_layout(replace(layout, modules=tuple(others)))
    with pytest.raises(UsageError, match="expected priors of different conditioning"):
        replace(recipe, priors=recipe.priors[:1] * 2)
    assert recipe.vae.latent_dim <= recipe.vae.num_components
    # Directions within modules: room for one of each number of a module at least.
    assert recipe.vae.local_numbers >= layout.num_parameters
    assert [p.conditioning for p in recipe.priors] == ["adalora", "adanorm"]
    assert recipe.seeded(7).vae.loop.seed == 7
    assert {p.loop.seed for p in recipe.seeded(7).priors} == {7}


def test_papers_latent_is_512():
    assert get_recipe("sd15_faces").vae.latent_dim == get_recipe("sdxl_faces").vae.latent_dim == 512


def test_every_recipe_can_be_had_by_its_name():
    assert all(get_recipe(name).name == name for name in RECIPES)
    with pytest.raises(UsageError, match=r"expected a recipe among .*sd15_faces.*, got 'sd3_faces'"):
        get_recipe("sd3_faces")


@pytest.mark.slow
def test_imported_files_give_a_synthesizer_of_what_was_planted(fit, zoo):
    model = Synthesizer.from_pretrained(fit / "synthesizer")
    record = json.loads((fit.parent / "record.json").read_text())
    assert record["synthesizer"] == str(fit / "synthesizer")
    assert model.base == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert model.picture_size == 512
    assert model.canonicalizer.layout == Layout.preset("sd15-w2w")
    assert model.encoder_record == open_encoder("portraits").record
    scored = run("evaluate", fit / "synthesizer", "--zoo", zoo)
    methods = json.loads(scored.stdout)["methods"]
    assert methods["mean"]["explained"] == pytest.approx(0, abs=1e-4)
    for name in ("adalora", "adanorm", "ridge"):
        assert methods[name]["explained"] > 0.7
        assert methods[name]["relative_error"] < methods["mean"]["relative_error"] / 2


@pytest.mark.slow
def test_default_prior_is_chosen_by_error_and_the_card_says_so(fit, zoo, tmp_path, monkeypatch):
    scores = {"adalora": {"scale=1": -0.3}, "ridge": {"scale=1": -0.2}}

    def chosen(model, *_):
        model.settings = {name: {"scale": 1} for name in scores}
        return scores

    monkeypatch.setattr(tuning, "choose_settings", chosen)
    said = []
    shutil.copytree(fit, tmp_path / "fit", ignore=lambda *_: ["synthesizer"])
    work = Workspace(recipe=tiny(), folder=tmp_path / "fit", zoo_folder=zoo, report=said.append)
    model = assembling.assemble(work)
    assert model.default_prior == "ridge"
    assert said[0] == "default prior: ridge instead of adalora, better by 0.100"
    assert (
        "* **Default prior**: ridge, whose error was lower than that of the recipe's adalora by more than" in model.card
    )
    assert Synthesizer.from_pretrained(tmp_path / "fit/synthesizer").default_prior == "ridge"
    assert "* **Default prior**: adalora.\n" in Synthesizer.from_pretrained(fit / "synthesizer").card


@pytest.mark.slow
def test_file_it_writes_is_read_as_a_lora_of_sd15(fit, tmp_path):
    model = Synthesizer.from_pretrained(fit / "synthesizer")
    file = model.from_embedding(torch.ones(512)).save(tmp_path / "me.safetensors", dtype=torch.float16)
    lora = LoRA.load(file, Layout.preset("sd15-w2w"))
    assert lora.metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert lora.metadata["ss_base_model_version"] == "sd_v1"
    assert float(delta_W_norm2(lora.layout, lora.vector[None])) > 0


@pytest.mark.slow
def test_its_card_says_base_licence_and_how_settings_were_chosen(fit):
    card = ModelCard((fit / "synthesizer" / "README.md").read_text())
    assert card.data.to_dict() | {"tags": None} == {
        "library_name": "lorasynth", "license": "cc-by-4.0", "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "base_model_relation": "adapter", "tags": None, "instance_prompt": "sks person", "pipeline_tag": "text-to-image",
    }  # fmt: skip
    assert "lora" in card.data.tags
    assert "were chosen by the error of ΔW on" in card.text
    assert "encoder portraits" in card.text
    assert max(len(line) for line in card.text.splitlines()) < 220


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_recipes")
def test_stages_one_by_one_are_those_of_all_at_once(zoo, fit, tmp_path):
    for stage in ("vae", "prior"):
        assert run("train", stage, "sd15_faces", "--zoo", zoo, "--out", tmp_path / "fit").exit_code == 0
    assert run("train", "all", "sd15_faces", "--zoo", zoo, "--out", tmp_path / "fit").exit_code == 0
    for file in ("prior.safetensors", "vae.safetensors", "canonical.safetensors"):
        assert (tmp_path / "fit/synthesizer" / file).read_bytes() == (fit / "synthesizer" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_recipes")
def test_model_of_unnamed_embeddings_takes_embeddings_only(loras, tmp_path):
    zoo = bring_in(loras, tmp_path / "zoo")
    assert run("train", "all", "sd15_faces", "--zoo", zoo, "--out", tmp_path / "fit").exit_code == 0
    model = Synthesizer.from_pretrained(tmp_path / "fit/synthesizer")
    assert model.encoder_record == {"kind": "unknown", "name": "unknown", "dim": 512}
    assert "unknown; it takes embeddings only" in model.card
    model.from_embedding(torch.ones(512))


def test_stages_that_need_pictures_say_so(zoo, tmp_path):
    pictures = "expected photographs to train through the base, got none for recipe 'sd15_faces'; give --data"
    for words, message in (
        (("train", "refine", "sd15_faces", "--out", tmp_path), pictures),
        (("train", "end-to-end", "sd15_faces", "--zoo", tmp_path, "--out", tmp_path), pictures),
        (
            ("zoo", "build", "sd15_faces", "--out", tmp_path / "z"),
            "expected a recipe that makes a zoo, got 'sd15_faces'",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            raise run(*words).exception
    assert get_recipe("portraits_tiny").world == "portraits"
    assert not (tmp_path / "z").exists()


@pytest.mark.slow
def test_model_of_a_real_base_is_not_drawn(fit):
    with pytest.raises(
        UsageError, match=r"expected photographs to score a model of .*; give --data and --encoder, or --zoo ZOO"
    ):
        raise run("evaluate", fit / "synthesizer").exception


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("sdxl_faces", "expected a zoo of family 'sdxl' for recipe 'sdxl_faces', got one of 'sd15'"),
        ("portraits", "expected a zoo of family 'portraits' for recipe 'portraits', got one of 'sd15'"),
        ("sd15_faces", "expected at least 513 LoRAs"),
    ],
)
def test_zoo_that_is_not_the_recipes_is_refused(zoo, tmp_path, recipe, message):
    with pytest.raises(ZooError, match=message):
        raise run("train", "vae", recipe, "--zoo", zoo, "--out", tmp_path / "fit").exception
    assert not (tmp_path / "fit" / "vae.safetensors").exists()


def test_stages_never_hold_the_zoo_as_a_whole(zoo, tmp_path, monkeypatch):
    """No more LoRAs at once than a chunk has, although more are learned from."""
    sizes, gather = [], lorasynth.zoo.rows._gather

    def counted(folder, items, headers, key):
        sizes.extend([len(items)] * (key == "vectors"))
        return gather(folder, items, headers, key)

    monkeypatch.setattr(lorasynth.zoo.rows, "_gather", counted)
    monkeypatch.setattr(lorasynth.storage.rows, "_ROWS_AT_ONCE", 5)
    work = Workspace(recipe=tiny(), folder=tmp_path, zoo_folder=zoo)
    fit_vae_stage(work)
    fit_prior_stage(work)
    assert len(work.zoo) == LORAS
    assert max(sizes) == 5


@pytest.mark.parametrize(("loras", "components"), [(320, 64), (65, 64), (18, 17), (1, 1)])
def test_recipe_of_photographs_takes_a_zoo_of_few_subjects(loras, components, tmp_path):
    """By default it has 64 components, and 18 LoRAs span 17 directions about their mean."""
    item = Item(id="a", person=1, split="train", shard="s", row=0, sha256="", source="", licence="")
    zoo = replace(Zoo.create(tmp_path / "zoo", Layout.preset("sd15-w2w"), {}, None), items=(item,) * loras)
    fitted = get_recipe("sd15").fitted_to(zoo).vae
    assert (fitted.num_components, fitted.latent_dim) == (components, components)
