"""`lorasynth render` draws with a user's base and LoRA as plain diffusers does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth.base.sampling import guidance_of, usual_guidance
from lorasynth.cli.app import app
from lorasynth.errors import LoRAFileError, UsageError
from lorasynth.evaluate.grid import sheet
from lorasynth.lora.factors import LoRA
from lorasynth.worlds.world import get_world

from ..tiny_pipelines import SIZE, pipeline

PROMPT = "a photo of sks person"


@pytest.mark.parametrize("family", ["sd15", "sd3"])
@pytest.mark.slow
def test_picture_of_a_folder_and_a_lora_is_the_pipelines(bases, tmp_path, family):
    folder, picture = tmp_path / family, tmp_path / "me.png"
    pipe = pipeline(family)
    pipe.save_pretrained(folder)
    lora = LoRA.random(bases(family).layout(2), seed=0, std=0.4).save(tmp_path / "me.safetensors", "diffusers")

    def rendered(*more):
        call = ["render", "--base", str(folder), "-p", PROMPT, "-o", str(picture), "--num-images", "1", "--steps", "3"]
        ran = CliRunner().invoke(app, [*call, "--force", *more])
        assert ran.exit_code == 0, ran.output
        image = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(image)

    plain, ours = rendered(), rendered("--lora", str(lora))
    pipe.load_lora_weights(tmp_path, weight_name=lora.name)
    theirs = pipe(
        [PROMPT], num_inference_steps=3, guidance_scale=usual_guidance(bases(family)), output_type="pt",
        generator=[torch.Generator().manual_seed(0)], height=SIZE, width=SIZE,
    ).images  # fmt: skip
    expected = np.asarray(sheet([theirs], [""], zoom=256 // SIZE, margin=4), dtype=np.float32) / 255
    assert (ours - torch.from_numpy(expected)).abs().max() < 0.02
    assert (ours - plain).abs().max() > 0.05


def test_lora_of_another_family_is_refused_though_its_shapes_fit(bases, tmp_path):
    pipeline("sd15").save_pretrained(tmp_path / "sd15")
    layout = replace(bases("sd15").layout(2), base="sd2")
    lora = LoRA.random(layout, seed=0).save(tmp_path / "me.safetensors")
    words = ["render", "--base", tmp_path / "sd15", "--lora", lora, "-p", PROMPT, "-o", tmp_path / "me.png"]
    ran = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(ran.exception, LoRAFileError)
    assert "expected modules of sd2, as lorasynth.base says" in str(ran.exception)
    assert not (tmp_path / "me.png").exists()


def drawn(tmp_path, name, *more):
    picture = tmp_path / f"{name}.png"
    words = ["render", "-p", PROMPT, "-o", picture, "--num-images", "1", "--steps", "2", *more]
    ran = CliRunner().invoke(app, [str(word) for word in words])
    return ran if ran.exception else picture.read_bytes()


def test_base_is_the_drawn_world_that_the_lora_names(tmp_path):
    lora = LoRA.random(get_world("portraits").base.layout(2), seed=0, std=0.1).save(tmp_path / "me.safetensors")
    assert drawn(tmp_path, "named", "--lora", lora) == drawn(tmp_path, "given", "--lora", lora, "--base", "portraits")


@pytest.mark.parametrize(("family", "usual"), [("sd15", 7.5), ("sd3", 7.0)])
def test_guidance_is_the_usual_one_of_the_family(family, usual, tmp_path):
    pipeline(family).save_pretrained(tmp_path / family)
    for asked, guidance in (([], usual), (["--guidance-scale", "0"], 0.0), (["--guidance-scale", "3"], 3.0)):
        words = ["--base", str(tmp_path / family), "--num-images", "1", "--steps", "1", "--json", "-", *asked]
        ran = CliRunner().invoke(app, ["render", "-p", PROMPT, "-o", str(tmp_path / f"{guidance}.png"), *words])
        assert json.loads(ran.output)["guidance_scale"] == guidance


@pytest.mark.parametrize(("asked", "guidance"), [(None, 7.5), (0.0, 0.0), (3.0, 3.0)])
def test_guidance_of_zero_is_asked_for_as_any_other(bases, asked, guidance):
    assert guidance_of(bases("sd15"), asked) == guidance


def test_lora_of_another_drawn_world_is_refused(tmp_path):
    lora = LoRA.random(get_world("portraits").base.layout(2), seed=0).save(tmp_path / "me.safetensors")
    ran = drawn(tmp_path, "other", "--lora", lora, "--base", "portraits128")
    assert isinstance(ran.exception, UsageError)
    assert "expected a LoRA for the base of 'portraits128', got one for that of 'portraits'" in str(ran.exception)
    assert not (tmp_path / "other.png").exists()
