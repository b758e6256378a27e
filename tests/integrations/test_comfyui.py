"""The ComfyUI nodes over stand-ins for ComfyUI's names. The same against ComfyUI itself: real_comfyui.py, `make test-comfyui`."""

import asyncio
import json
import math
import os
import shutil
import tomllib

import pytest
import torch
from PIL import Image

from lorasynth.errors import (
    ConsentError,
    LayoutError,
    ModelError,
    OutputExistsError,
    OutsideWorldError,
    PhotoError,
    UsageError,
)
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.synthesizer import Synthesizer

from .conftest import PACKAGE
from .standin import BaseModel, ModelPatcher, run

pytestmark = pytest.mark.integration


@pytest.fixture
def model():
    """A MODEL with a place for every module of the layout."""
    return model_of(Layout.preset("sd15-w2w"))


@pytest.fixture
def synthesize(package, sd15_synthesizer, model, photo_files, load_image):
    """Function that runs the first node, with inputs that are good but for what is given."""
    good = {
        "model": model, "image": load_image(photo_files[0]), "synthesizer": str(sd15_synthesizer), "encoder": "portraits",
        "consent": "synthetic", "seed": 3, "strength": 0.8,
    }  # fmt: skip
    return lambda **given: run(package.nodes.SynthesizeLoRA, **{**good, **given})


@pytest.fixture(scope="module")
def python(sd15_synthesizer):
    """The synthesizer, as Python has it."""
    return Synthesizer.from_pretrained(sd15_synthesizer, encoder="portraits")


@pytest.fixture
def save(package, synthesize, loras):
    """Function that runs the second node on the first one's LoRA."""
    lora = synthesize().args[1]
    return lambda name, if_exists="add a number": run(package.nodes.SaveLoRA, lora=lora, name=name, if_exists=if_exists)


def model_of(layout, **other):
    shapes = {m.name: (m.out_features, m.in_features) for m in layout.modules}
    return ModelPatcher(BaseModel({k: v for k, v in {**shapes, **other}.items() if v is not None}))


# What ComfyUI's loader and its users see


def test_entry_point_gives_both_nodes_and_no_older_mapping(package):
    extension = asyncio.run(package.comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == [package.nodes.SynthesizeLoRA, package.nodes.SaveLoRA]
    assert not hasattr(package, "NODE_CLASS_MAPPINGS")  # the loader would stop there


def test_what_has_to_be_given_and_what_has_a_default(package):
    types = package.nodes.SynthesizeLoRA.INPUT_TYPES()
    assert list(types["required"]) == ["model", "image", "synthesizer", "consent", "seed", "strength"]
    settings = ["temperature", "guidance_scale", "num_inference_steps", "scale"]
    assert list(types["optional"]) == ["encoder", "prior", *settings]
    assert types["required"]["consent"][1]["default"] == "not stated"
    assert {types["optional"][name][1]["default"] for name in settings} == {-1}
    assert package.nodes.SaveLoRA.GET_SCHEMA().is_output_node


def test_pyproject_is_what_comfyuis_manager_reads():
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"PublisherId", "DisplayName", "Icon"} <= project["tool"]["comfy"].keys()
    assert (PACKAGE / project["tool"]["comfy"]["Icon"]).is_file()
    assert (PACKAGE / "requirements.txt").read_text().split() == project["project"]["dependencies"]


def test_example_workflows_node_has_value_for_each_of_its_fields(package):
    workflow = json.loads((PACKAGE / "example_workflows" / "lora_from_photo.json").read_text())
    ours = {node["type"]: node for node in workflow["nodes"] if node["type"].startswith("Lorasynth")}
    for node in (package.nodes.SynthesizeLoRA, package.nodes.SaveLoRA):
        schema = node.GET_SCHEMA()
        shown = ours[schema.node_id]
        sockets = {x["name"]: x["type"] for x in shown["inputs"]}
        assert sockets == {x.id: x.io_type for x in schema.inputs if x.id in sockets}
        fields = [x for x in schema.inputs if x.id not in sockets]
        for x, value in zip(fields, shown["widgets_values"], strict=True):
            assert value == x.converts(value) if x.converts else value in x.given["options"]
        assert [x["type"] for x in shown["outputs"]] == [x.io_type for x in schema.outputs]


# IMAGE -> photos


def test_image_has_the_pixels_of_its_file(package, photo_files, load_image):
    photos = package.photos.to_photos(load_image(*photo_files))
    assert [p.tobytes() for p in photos] == [Image.open(f).tobytes() for f in photo_files]


def test_what_resampling_overshoots_is_clipped(package):
    image = torch.full((1, 64, 64, 3), 1.02)
    image[:, :32] = -0.02
    assert package.photos.to_photos(image)[0].getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(64, 64, 3), r"expected an IMAGE of shape \(B, H, W, 3\), got \(64, 64, 3\)"),
        (torch.zeros(1, 64, 64, 4), "without its alpha channel"),
        (torch.zeros(0, 64, 64, 3), r"got \(0, 64, 64, 3\)"),
        (torch.zeros(1, 0, 64, 3), r"got \(1, 0, 64, 3\)"),
        (torch.full((1, 64, 64, 3), 200.0), "expected an IMAGE with values from 0 to 1, got 200 to 200"),
        (torch.full((1, 64, 64, 3), math.nan), "expected an IMAGE with values from 0 to 1, got nan"),
        (torch.zeros(1, 40, 64, 3), "expected at least 48 pixels a side, got 64 x 40"),
    ],
)
def test_what_is_no_picture_is_refused(package, image, said):
    with pytest.raises(PhotoError, match=said):
        package.photos.to_photos(image)


# Photos -> LoRA -> MODEL


def test_node_gives_the_lora_that_python_gives_for_the_file(synthesize, python, photo_files):
    lora = synthesize().args[1]
    ours = python(photo_files[0], seed=3)
    assert torch.equal(lora.vector, ours.vector.half().float())  # as its file will have it
    assert lora.metadata == {**ours.metadata, "lorasynth.consent": "synthetic"}


def test_several_images_are_pooled(synthesize, python, photo_files, load_image):
    lora = synthesize(image=load_image(*photo_files)).args[1]
    ours = python(photo_files, seed=3)
    assert torch.equal(lora.vector, ours.vector.half().float())


def test_modules_are_on_the_outgoing_model_alone(synthesize, model):
    patched, lora = synthesize().args
    assert model.patches == {}
    assert len(patched.patches) == len(lora.layout.modules) == 64
    for m in lora.layout.modules:
        ((strength, (up, down, alpha), *_),) = patched.patches[f"diffusion_model.{m.name}.weight"]
        assert strength == 0.8
        assert torch.equal(alpha / len(down) * up.float() @ down.float(), lora.delta_W(m.name))


def test_second_lora_goes_on_top_of_the_first(synthesize):
    first = synthesize().args[0]
    second = synthesize(model=first, seed=4).args[0]
    assert {len(patches) for patches in second.patches.values()} == {2}
    assert {len(patches) for patches in first.patches.values()} == {1}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (None, "got one that takes 63: lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v has no place"),
        ((1280, 1024), r"takes 63: .*attn2_to_v is of shape \(1280, 768\), its place of \(1280, 1024\)"),
    ],
)
def test_module_that_finds_no_place_is_an_error(synthesize, changed, said):
    other = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_v": changed}
    with pytest.raises(LayoutError, match=said):
        synthesize(model=model_of(Layout.preset("sd15-w2w"), **other))


def test_model_of_another_architecture_is_error_that_says_meant(synthesize):
    with pytest.raises(
        LayoutError, match=r"got one that takes 0: .* is for base model 'sd15'; load a checkpoint of th"
    ):
        synthesize(model=ModelPatcher(BaseModel({"blocks.0.to_q": (8, 8)})))


def test_settings_are_the_synthesizers_own_unless_given(synthesize, python, photo_files):
    own = synthesize().args[1]
    assert torch.equal(synthesize(temperature=-1.0, scale=-1, prior=" ").args[1].vector, own.vector)
    ours = python(photo_files[0], seed=3, scale=2.0)
    assert torch.equal(synthesize(scale=2.0, prior="ridge").args[1].vector, ours.vector.half().float())


@pytest.mark.slow
def test_synthesizer_is_loaded_again_when_its_folder_changed(package, synthesize, sd15_synthesizer, tmp_path):
    folder = shutil.copytree(sd15_synthesizer, tmp_path / "copy")
    package.nodes._load.cache_clear()
    for seed in range(3):
        synthesize(synthesizer=str(folder), seed=seed)
    assert package.nodes._load.cache_info()[:2] == (2, 1)  # hits, misses
    before = package.nodes.SynthesizeLoRA.fingerprint_inputs(synthesizer=str(folder), seed=0)
    os.utime(folder / "config.json", ns=(1, 1))
    assert package.nodes.SynthesizeLoRA.fingerprint_inputs(synthesizer=str(folder), seed=0) != before
    synthesize(synthesizer=str(folder))
    assert package.nodes._load.cache_info()[:2] == (2, 2)


def test_what_an_encoder_warns_of_is_in_the_log(package, synthesize, monkeypatch, logged):
    loaded = Synthesizer.from_pretrained

    def blurred(*args, **kwargs):
        model = loaded(*args, **kwargs)
        read = model.encoder.read
        model.encoder.read = lambda images: [
            type(r)(embedding=r.embedding, quality=0.1, warnings=("looks blurred",)) for r in read(images)
        ]
        return model

    package.nodes._load.cache_clear()
    monkeypatch.setattr(Synthesizer, "from_pretrained", blurred)
    synthesize()
    package.nodes._load.cache_clear()
    assert "lorasynth: looks blurred" in logged.getvalue()


# Errors are lorasynth's own


def test_nothing_is_made_without_consent(synthesize):
    with pytest.raises(ConsentError, match="expected consent self, subject or synthetic"):
        synthesize(consent="not stated", synthesizer="nowhere")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"synthesizer": " "}, UsageError, "expected a synthesizer's folder or hub id, got nothing"),
        ({"synthesizer": "no/such/folder"}, ModelError, "no such folder"),
        ({"encoder": ""}, UsageError, "expected an embedding, got photos and no encoder"),
        ({"prior": "magic"}, UsageError, r"expected a prior among \['ridge'\], got 'magic'"),
        ({"scale": -0.5}, UsageError, "scale: expected a number from 0 to 20, got -0.5"),
        ({"num_inference_steps": 0}, UsageError, "expected a whole number from 1 to 1000, got 0"),
    ],
)
def test_errors_are_shown_as_they_are(synthesize, given, error, said):
    with pytest.raises(error, match=said):
        synthesize(**given)


def test_photo_of_another_kind_is_refused(synthesize):
    noise = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(OutsideWorldError, match="expected a picture of the world 'portraits'"):
        synthesize(image=noise)


# LoRA -> file


def test_file_is_the_lora_and_says_whose_consent_there_is(synthesize, save, loras):
    result = save("people/me")
    assert result.args == (os.path.join("people", "me.safetensors"),)
    assert result.ui == {"text": result.args}
    loaded = LoRA.load(loras / "people" / "me.safetensors")
    assert torch.equal(loaded.vector, synthesize().args[1].vector)
    assert loaded.metadata["lorasynth.consent"] == "synthetic"


def test_no_file_is_replaced_unless_asked(save, loras):
    (loras / "me.safetensors").write_bytes(b"mine")
    assert [save("me.safetensors").args[0] for _ in range(2)] == ["me-2.safetensors", "me-3.safetensors"]
    with pytest.raises(OutputExistsError, match=r"me\.safetensors: exists already"):
        save("me", "refuse")
    assert (loras / "me.safetensors").read_bytes() == b"mine"
    assert save("me", "replace").args[0] == "me.safetensors"
    assert LoRA.load(loras / "me.safetensors").layout.base == "sd15"


@pytest.mark.parametrize("name", ["../me", "/tmp/me", "a/../../me"])
def test_nothing_is_written_outside_the_folder(save, loras, name):
    with pytest.raises(UsageError, match="within ComfyUI's loras folder"):
        save(name)
    assert list(loras.parent.rglob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a" * 5000, "at most 240 bytes, got 5012"),
        ("ü" * 130, "at most 240 bytes, got 272"),
        ("people/" + "b" * 300 + "/me", "at most 240 bytes, got 300"),
        ("/".join("abcdefghij"), "at most 8 parts, got 10"),
        ("CON", "that Windows does not keep for a device"),
        ("people/lpt1.old/me", "that Windows does not keep for a device"),
    ],
)
def test_names_that_no_file_system_takes_are_refused(save, loras, name, said):
    with pytest.raises(UsageError, match=said):
        save(name)
    assert not list(loras.rglob("*.safetensors"))


def test_file_in_a_folders_place_is_refused(save, loras):
    (loras / "people").write_text("a file")
    with pytest.raises(UsageError, match=r"its folder cannot be made \(File exists|Not a directory"):
        save("people/me")


@pytest.mark.parametrize(
    ("size", "said"), [((60, 241), "sides of at most 4 to 1"), ((9000, 9000), "at most 64 megapixels")]
)
def test_pictures_have_the_bounds_of_photo_files(package, size, said):
    with pytest.raises(PhotoError, match=said):
        package.photos.to_photos(torch.zeros(1, 1, 1, 3).expand(1, *size, 3))


@pytest.mark.parametrize("name", ["", ".safetensors", "a\0b"])
def test_what_is_no_name_is_refused(save, name):
    with pytest.raises(UsageError, match="expected a name for the LoRA's file"):
        save(name)


def test_lora_beyond_float16_is_refused_before_it_is_applied(package):
    huge = LoRA.random(Layout.preset("sd15-w2w"), std=1e6)
    with pytest.raises(UsageError, match="expected finite LoRA weights"):
        package.nodes._as_stored(huge, "synthetic")
