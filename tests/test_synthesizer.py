"""A photo goes in, a LoRA comes out: on the shipped model."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lorasynth import base_model
from lorasynth.cli.app import app
from lorasynth.encoders import open_photo
from lorasynth.encoders.images import photo_tensor, to_image
from lorasynth.errors import ModelError, OutsideWorldError, UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.opening import open_encoder
from lorasynth.storage.files import read_tensors
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import World, get_domain, get_world

from .making import BASE, real_synthesizer, sd15_layout

pytestmark = pytest.mark.integration
SHIPPED = get_world("portraits128").synthesizer_folder


@pytest.fixture(scope="module")
def model():
    return Synthesizer.from_pretrained()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "person.png"
    to_image(get_world("portraits").draw([21], [0], 200)[0]).save(path)
    return path


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_seed_gives_one_file_byte_for_byte(model, photo, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        model(photo, seed=seed, temperature=1.0).save(tmp_path / f"{name}.safetensors", dtype=torch.float16)
    assert _digest(tmp_path / "a.safetensors") == _digest(tmp_path / "b.safetensors")
    assert _digest(tmp_path / "a.safetensors") != _digest(tmp_path / "c.safetensors")


def test_one_seed_gives_one_file_on_any_number_of_threads(model, photo, tmp_path):
    digests = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            model(photo, seed=5, temperature=1.0).save(tmp_path / f"{threads}.safetensors")
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        digests.add(_digest(tmp_path / f"{threads}.safetensors"))
    assert len(digests) == 1


def test_rows_of_a_batch_are_draws_of_their_own(model, photo):
    """The docstring says where "equal seeds, equal bytes" ends."""
    embedding = model.embed(photo)
    batch = model.synthesize(embedding.expand(3, -1), seed=5, temperature=1.0)
    again = model.synthesize(embedding.expand(3, -1), seed=5, temperature=1.0)
    assert torch.equal(batch, again)
    assert not torch.allclose(batch[0], batch[1], atol=1e-3)
    alone, together = (model.synthesize(embedding.expand(n, -1), seed=5, temperature=0.0) for n in (1, 3))
    assert torch.allclose(alone.expand(3, -1), together, atol=1e-5)


def test_file_loads_in_plain_diffusers_and_draws_the_person(model, photo, tmp_path):
    world = get_world("portraits")
    file = model(photo).save(tmp_path / "me.safetensors", dtype=torch.float16)
    centre = torch.nn.functional.normalize(world.embeddings([21], 8, first=1000).mean(1), dim=1)

    def draw():
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        call = {"num_inference_steps": 20, "guidance_scale": 2.0, "generator": generators, "output_type": "pt"}
        with torch.no_grad():
            return (
                (world.encoder(world.base.pipe([world.prompts[0]] * 4, **call).images.float()) @ centre[0])
                .mean()
                .item()
            )

    without = draw()
    world.base.pipe.load_lora_weights(tmp_path, weight_name=file.name)
    try:
        with_lora = draw()
    finally:
        world.base.pipe.unload_lora_weights()
    assert without < 0.3
    assert with_lora > without + 0.3


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_pages_python_makes_a_lora_and_draws_with_it(page, photo, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / page).read_text(), re.DOTALL)
    (tmp_path / "out/demo").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "out/demo/photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile("".join(blocks), page, "exec"), {})
    drawn = [path.name for path in tmp_path.glob("*.png")]
    assert sorted(drawn) == (["me.png"] if len(blocks) == 1 else ["me.png", "more.png"])
    for name in drawn:
        with Image.open(tmp_path / name) as image:
            assert image.size == (128, 128)


def test_file_holds_no_embedding_and_no_file_name(model, photo, tmp_path):
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
    to_image(get_world("portraits").draw([21], [1], 200)[0]).save(second)
    pooled = model.embed([photo, second])
    assert pooled.norm().item() == pytest.approx(1, abs=1e-5)
    expected = torch.nn.functional.normalize(model.embed(photo) + model.embed(second), dim=0)
    assert torch.allclose(pooled, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_embedding_is_the_unit_mean_of_the_world_recogniser(model, count):
    world = get_world("portraits128")
    images = [to_image(picture) for picture in world.draw([21] * count, list(range(count)), 200)]
    with torch.no_grad():
        rows = world.embedder(torch.stack([photo_tensor(image, world.picture_size) for image in images]))
    assert torch.equal(model.embed(images), torch.nn.functional.normalize(rows.mean(0), dim=0))


def test_stranger_among_the_photos_is_named(model):
    model.embed([to_image(picture) for picture in get_world("portraits").draw([21, 21, 21, 34], [0, 1, 2, 0], 128)])
    assert [warning.partition(":")[0] for warning in model.last_warnings] == ["photo 4 of 4"]


def test_picture_of_another_kind_is_refused(model, tmp_path):
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
        with pytest.raises(
            OutsideWorldError, match=f"^{re.escape(str(path))}: expected a picture of the world 'portraits128'"
        ):
            model(path)
        assert model.embed(path, allow_outside=True).norm().item() == pytest.approx(1, abs=1e-5)
    fine = to_image(get_world("portraits").draw([300], [0], 128)[0])
    with pytest.raises(OutsideWorldError, match=r"^photo 2 of 2: expected a picture of the world"):
        model.embed([fine, natural])


def test_people_of_the_world_are_not_refused(model):
    for person in range(300, 340):
        model.embed(to_image(get_world("portraits").draw([person], [0], 128)[0]))


def test_scale_multiplies_the_deviation_from_the_zoos_mean(model, photo):
    mean = model.canonicalizer.mean
    one, two = (model(photo, scale=s).vector - mean for s in (1.0, 2.0))
    assert torch.allclose(two, 2 * one, atol=1e-5)
    assert torch.equal(model(photo, scale=0.0).vector, mean)


def test_settings_out_of_range_are_refused(model, photo):
    for name in ("magic", ""):
        with pytest.raises(UsageError, match="expected a prior among"):
            model(photo, prior=name)
    with pytest.raises(UsageError, match="num_inference_steps: expected a whole number from 1 to 1000, got 0"):
        model(photo, num_inference_steps=0)
    with pytest.raises(UsageError, match="expected a seed from 0"):
        model(photo, seed=-1)
    with pytest.raises(UsageError, match="scale: expected a number from 0 to 20, got 21"):
        model(photo, scale=21)


def test_saved_synthesizer_is_the_same_synthesizer(model, photo, tmp_path):
    model.save_pretrained(tmp_path / "copy", "# card")
    again = Synthesizer.from_pretrained(tmp_path / "copy")
    assert torch.equal(again(photo, seed=3).vector, model(photo, seed=3).vector)
    for name in ("guard", "vae", "canonical"):
        file = f"{name}.safetensors"
        assert (tmp_path / "copy" / file).read_bytes() == (SHIPPED / file).read_bytes(), file
    (new, said), (old, once_said) = (read_tensors(f / "prior.safetensors") for f in (tmp_path / "copy", SHIPPED))
    assert new.keys() == old.keys()
    assert all(torch.equal(new[key], old[key]) for key in old)
    # What a prior predicts has been said since there is a choice.
    assert said == once_said | {"prediction_type": "v_prediction"}


def test_synthesizer_made_with_another_encoder_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "copy", "# card")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["encoder"]["sha256"] = "0" * 64
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected the encoder of world 'portraits128' with sha256 000000000000"):
        Synthesizer.from_pretrained(tmp_path / "copy")


def test_drawn_worlds_name_is_its_shipped_model(model, photo):
    assert torch.equal(Synthesizer.from_pretrained(SHIPPED)(photo, seed=3).vector, model(photo, seed=3).vector)


def test_default_is_the_model_of_portraits128(photo):
    default = Synthesizer.from_pretrained()
    assert default.base == "portraits128"
    assert Path(base_model()) == get_world(default.base).folder / "base"
    named = Synthesizer.from_pretrained("portraits128")
    assert torch.equal(default(photo, seed=3).vector, named(photo, seed=3).vector)


def test_worlds_without_a_synthesizer_are_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"expected the models of the world 'emblems', got no folder; make them"):
        Synthesizer.from_pretrained("emblems")
    with pytest.raises(ModelError, match=r"expected a synthesizer of the world 'emblems', got none; name the folder"):
        _ = World(domain=get_domain("emblems"), folder=tmp_path).synthesizer_folder


def test_folder_that_is_no_synthesizer_is_said_so(tmp_path):
    with pytest.raises(ModelError, match=r"config.json: not found"):
        Synthesizer.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def encoder():
    """The drawn world's recogniser in the part of the user's own: a file of its own, known by its sha256."""
    return open_encoder("portraits")


@pytest.fixture(scope="module")
def real(encoder, tmp_path_factory):
    """The folder of a synthesizer of a real base."""
    folder = tmp_path_factory.mktemp("real") / "model"
    real_synthesizer(encoder.record, true_shape=True).save_pretrained(folder)
    return folder


def test_real_bases_folder_holds_no_encoder_and_no_guard(real, encoder):
    config = json.loads((real / "config.json").read_text())
    assert config["base"] == BASE
    assert config["encoder"] == encoder.record
    assert not list(real.rglob("*encoder*"))
    assert not (real / "guard.safetensors").exists()


def test_with_its_encoder_a_real_bases_model_takes_photos(real, encoder, photo):
    for given in ("portraits", encoder):
        lora = Synthesizer.from_pretrained(real, encoder=given)(photo, seed=4)
        embedding = encoder.embed([open_photo(photo)])[0]
        assert torch.allclose(
            lora.vector, Synthesizer.from_pretrained(real).from_embedding(embedding, seed=4).vector, atol=1e-5
        )
    assert lora.metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert lora.metadata["modelspec.resolution"] == "512x512"
    assert lora.metadata["lorasynth.base_model"] == BASE


def test_model_without_encoder_says_which_one_photos_need(real, photo):
    model = Synthesizer.from_pretrained(real)
    with pytest.raises(
        UsageError, match=r"got photos and no encoder; give the model its own .*--encoder SPEC.*portraits"
    ):
        model(photo)
    vector = torch.randn(512, generator=torch.Generator().manual_seed(1))
    lora = model.from_embedding(vector, seed=1)
    assert torch.equal(lora.vector, model.from_embedding(8 * vector, seed=1).vector)
    assert not torch.equal(lora.vector, model.from_embedding(-vector, seed=1).vector)
    for wrong in (vector[:128], torch.zeros(512), torch.full((512,), torch.nan)):
        with pytest.raises(UsageError, match="expected an embedding of 512 numbers with a direction"):
            model.from_embedding(wrong)


def test_another_encoder_than_its_own_is_refused(encoder, photo, tmp_path):
    other = encoder.record | {"name": "another", "files": {"recogniser": "0" * 64}}
    real_synthesizer(other, true_shape=True).save_pretrained(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"expected embeddings of encoder 'another' \(recogniser sha256 000000000000\), got"
    ):
        Synthesizer.from_pretrained(tmp_path / "model", encoder="portraits")
    with pytest.raises(UsageError, match="no-such-encoder"):
        Synthesizer.from_pretrained(tmp_path / "model", encoder="no-such-encoder")


def test_where_nobody_said_which_encoder_none_is_taken(photo, tmp_path):
    real_synthesizer({"kind": "unknown", "name": "unknown", "dim": 512}, true_shape=True).save_pretrained(
        tmp_path / "model"
    )
    with pytest.raises(ModelError, match="got one that cannot be checked; the zoo does not say which encoder"):
        Synthesizer.from_pretrained(tmp_path / "model", encoder="portraits")
    with pytest.raises(UsageError, match=r"got photos and no encoder; the zoo does not say .* --embedding FILE"):
        Synthesizer.from_pretrained(tmp_path / "model")(photo)


def test_drawn_world_model_has_its_encoder_and_takes_embeddings(model, photo):
    with pytest.raises(UsageError, match="is of the drawn world 'portraits128', which has its encoder"):
        Synthesizer.from_pretrained(encoder="portraits")
    assert Synthesizer.from_pretrained(encoder="portraits128").encoder.world.name == "portraits128"  # its own, by name
    assert torch.equal(model.from_embedding(model.embed(photo), seed=3).vector, model(photo, seed=3).vector)


def test_real_bases_model_saved_again_is_the_same(real, tmp_path):
    model = Synthesizer.from_pretrained(real)
    model.save_pretrained(tmp_path / "again")
    for file in sorted(p.relative_to(real) for p in real.rglob("*") if p.is_file()):
        assert (tmp_path / "again" / file).read_bytes() == (real / file).read_bytes(), file
    assert model.card == "# a card\n"
    assert model.record == {"made_from": {"loras": 12}}


def test_command_line_needs_the_encoder_for_photos_alone(real, photo, tmp_path):
    def run(*words):
        result = CliRunner().invoke(app, ["synthesize", "--consent", "self", "--model", str(real), *map(str, words)])
        return "" if result.exit_code == 0 else str(result.exception)

    np.save(tmp_path / "face.npy", np.random.default_rng(0).normal(size=512))
    by_photo, by_embedding = tmp_path / "photo.safetensors", tmp_path / "embedding.safetensors"
    assert run(photo, "--encoder", "portraits", "-o", by_photo) == ""
    assert run("--embedding", tmp_path / "face.npy", "-o", by_embedding) == ""
    assert LoRA.load(by_photo).layout == LoRA.load(by_embedding).layout == sd15_layout(true_shape=True)
    none = tmp_path / "none.safetensors"
    assert "no encoder; give the model its own" in run(photo, "-o", none)
    assert "expected photos, or --embedding FILE" in run("-o", none)
    assert "expected photos, or --embedding FILE" in run(photo, "--embedding", tmp_path / "face.npy", "-o", none)
    assert "needs none" in run("--embedding", tmp_path / "face.npy", "--encoder", "portraits", "-o", none)
    np.save(tmp_path / "short.npy", np.ones(128))
    assert "expected an embedding of 512 numbers" in run("--embedding", tmp_path / "short.npy", "-o", none)
    assert not none.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "encoder: expected an object, got None"),
        ({"encoder": {"name": "x"}}, "encoder.kind: expected a value, got nothing"),
        ({"priors": None}, "priors: expected an object of at most 64 entries, got None"),
        ({"priors": {"adalora": "pickle"}}, "priors.adalora: expected 'diffusion' or 'baseline', got 'pickle'"),
        ({"format": 99}, "this version reads 1"),
    ],
)
def test_configuration_that_cannot_be_is_said_so(real, tmp_path, change, message):
    shutil.copytree(real, tmp_path / "model")
    config = json.loads((real / "config.json").read_text()) | change
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        Synthesizer.from_pretrained(tmp_path / "model", encoder="portraits")


def test_setting_of_a_sampler_is_refused_where_there_is_none(model, photo):
    with pytest.raises(UsageError, match="expected no guidance_scale, temperature for 'ridge', which has no sampler"):
        model(photo, prior="ridge", temperature=1.0, guidance_scale=2.0, scale=1.0)
    assert model(photo, prior="ridge", scale=1.0).vector.isfinite().all()


def test_file_says_what_prompts_call_the_subject(tmp_path):
    encoder = open_encoder("portraits")
    usual = real_synthesizer(encoder.record)
    assert usual.from_embedding(torch.ones(512)).metadata["modelspec.trigger_phrase"] == "sks person"
    usual.record["subject"] = "sks dog"
    usual.save_pretrained(tmp_path / "model")
    dogs = Synthesizer.from_pretrained(tmp_path / "model", encoder=encoder)
    assert dogs.from_embedding(torch.ones(512)).metadata["modelspec.trigger_phrase"] == "sks dog"
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"subject": 3}))
    with pytest.raises(ModelError, match="subject"):
        Synthesizer.from_pretrained(tmp_path / "model", encoder=encoder)
