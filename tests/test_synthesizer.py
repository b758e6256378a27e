"""A photo goes in, a LoRA comes out: on the shipped model."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorasynth.encoders.images import to_image
from lorasynth.errors import ModelError, OutsideWorldError, UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.portraits.draw import photos_of
from lorasynth.worlds.world import get_world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model():
    return Synthesizer.from_pretrained()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "person.png"
    to_image(photos_of([21], [0], 200)[0]).save(path)
    return path


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_seed_gives_one_file_byte_for_byte(model, photo, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        model(photo, seed=seed, temperature=1.0).save(tmp_path / f"{name}.safetensors", dtype=torch.float16)
    assert _digest(tmp_path / "a.safetensors") == _digest(tmp_path / "b.safetensors")
    assert _digest(tmp_path / "a.safetensors") != _digest(tmp_path / "c.safetensors")


def test_the_file_loads_in_plain_diffusers_and_draws_the_person(model, photo, tmp_path):
    world = get_world("portraits")
    file = model(photo).save(tmp_path / "me.safetensors", dtype=torch.float16)
    centre = torch.nn.functional.normalize(world.embeddings([21], 8, first=1000).mean(1), dim=1)

    def draw():
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        call = {"num_inference_steps": 20, "guidance_scale": 2.0, "generator": generators, "output_type": "pt"}
        with torch.no_grad():
            return (world.encoder(world.pipe([world.prompts[0]] * 4, **call).images.float()) @ centre[0]).mean().item()

    without = draw()
    world.pipe.load_lora_weights(tmp_path, weight_name=file.name)
    try:
        with_lora = draw()
    finally:
        world.pipe.unload_lora_weights()
    assert without < 0.3
    assert with_lora > without + 0.3


def test_the_readmes_lines_of_plain_diffusers_run(model, photo, tmp_path, monkeypatch):
    model(photo).save(tmp_path / "me.safetensors", dtype=torch.float16)
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    lines = next(b for b in readme.split("```python")[1:] if "from diffusers" in b).split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "README.md", "exec"), {})
    with Image.open(tmp_path / "me.png") as image:
        assert image.size == (64, 64)


def test_the_file_holds_no_embedding_and_no_file_name(model, photo, tmp_path):
    file = model(photo).save(tmp_path / "me.safetensors", dtype=torch.float16)
    content = file.read_bytes()
    embedding = model.embed(photo).numpy()
    assert photo.name.encode() not in content
    for raw in (embedding.tobytes()[:64], embedding.astype(np.float16).tobytes()[:64]):
        assert raw not in content
    loaded = LoRA.load(file)
    assert loaded.metadata["lorasynth.synthetic"] == "true"


def test_several_photos_are_pooled(model, photo, tmp_path):
    second = tmp_path / "second.png"
    to_image(photos_of([21], [1], 200)[0]).save(second)
    pooled = model.embed([photo, second])
    assert pooled.norm().item() == pytest.approx(1, abs=1e-5)
    expected = torch.nn.functional.normalize(model.embed(photo) + model.embed(second), dim=0)
    assert torch.allclose(pooled, expected, atol=1e-5)


def test_a_picture_of_another_kind_is_refused(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    rough = Image.fromarray(noise)
    flat = Image.new("RGB", (128, 128), (90, 120, 60))
    # Colours that change as slowly and as irregularly as in photographs: a power spectrum that falls with the frequency squared.
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) + 1 / 128
    field = np.fft.ifft2(np.fft.fft2(np.random.default_rng(1).normal(size=(3, 128, 128))) / frequency).real
    field = (field - field.mean((1, 2), keepdims=True)) / field.std((1, 2), keepdims=True)
    natural = Image.fromarray((128 + 50 * field.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8))
    for name, image in (("rough", rough), ("flat", flat), ("natural", natural)):
        path = tmp_path / f"{name}.png"
        image.save(path)
        with pytest.raises(OutsideWorldError, match="expected a picture of the world 'portraits'"):
            model(path)


def test_people_of_the_world_are_not_refused(model):
    for person in range(300, 340):
        model.embed(to_image(photos_of([person], [0], 128)[0]))


def test_scale_multiplies_the_deviation_from_the_zoos_mean(model, photo):
    mean = model.canonicalizer.mean
    one, two = (model(photo, scale=s).vector - mean for s in (1.0, 2.0))
    assert torch.allclose(two, 2 * one, atol=1e-5)
    assert torch.equal(model(photo, scale=0.0).vector, mean)


def test_settings_out_of_range_are_refused(model, photo):
    with pytest.raises(UsageError, match="expected a prior among"):
        model(photo, prior="magic")
    with pytest.raises(UsageError, match="expected 1 to 1000 steps, got 0"):
        model(photo, num_inference_steps=0)
    with pytest.raises(UsageError, match="expected a seed from 0"):
        model(photo, seed=-1)
    with pytest.raises(UsageError, match="expected scale from 0 to 20, got 21"):
        model(photo, scale=21)


def test_a_saved_synthesizer_is_the_same_synthesizer(model, photo, tmp_path):
    model.save_pretrained(tmp_path / "copy", "# card")
    again = Synthesizer.from_pretrained(tmp_path / "copy")
    assert torch.equal(again(photo, seed=3).vector, model(photo, seed=3).vector)


def test_a_synthesizer_made_with_another_encoder_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "copy", "# card")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["encoder"]["sha256"] = "0" * 64
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected the encoder of world 'portraits' with sha256 000000000000"):
        Synthesizer.from_pretrained(tmp_path / "copy")


def test_a_folder_that_is_no_synthesizer_is_said_so(tmp_path):
    with pytest.raises(ModelError, match=r"config.json: not found"):
        Synthesizer.from_pretrained(tmp_path)
