"""The models of a world of large pictures, made in stages, in a form that plain diffusers loads."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from lorasynth.errors import UsageError
from lorasynth.evaluate.picture_vae import people_with_details
from lorasynth.recipes.sharp_models import main
from lorasynth.recipes.sharp_stages import STAGES, tiny_sharp
from lorasynth.refining import RefineConfig, train_critic
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.worlds.base import BaseConfig, build_pipeline, build_unet
from lorasynth.worlds.drawn_base import DrawnBase
from lorasynth.worlds.reader import Reader
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.worlds.subjects import REAL_FROM
from lorasynth.worlds.vae import affine_encoder, build_vae, encode_affine
from lorasynth.worlds.world import World, get_domain

pytestmark = pytest.mark.slow

DOMAIN = get_domain("portraits128")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every stage for a step or two, on pictures of 32 pixels."""
    folder = tmp_path_factory.mktemp("portraits128")
    domain, config = replace(DOMAIN, picture_size=32), tiny_sharp()
    for stage in ("vae", "appearance", "decoder", "reader", "base", "report", "look"):
        STAGES[stage](domain, folder, config)
    return domain, folder, config


def test_plain_diffusers_draws_with_the_base(made):
    _, folder, _ = made
    pipe = StableDiffusionPipeline.from_pretrained(folder / "base", dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a photo of a person, looking left", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 32, 32)
    assert torch.isfinite(picture).all()


def test_base_has_the_channels_that_other_programs_expect(made):
    _, folder, _ = made
    unet = StableDiffusionPipeline.from_pretrained(folder / "base", safety_checker=None).unet
    assert all(channels % 32 == 0 for channels in unet.config.block_out_channels)
    assert unet.config.norm_num_groups == 32
    assert unet.config.sample_size == 2


def test_saved_base_names_no_folder(made):
    _, folder, _ = made
    texts = [path.read_text() for path in (folder / "base").rglob("*.json")]
    assert len(texts) >= 6
    assert not any(str(folder) in text or "_name_or_path" in text for text in texts)


def test_base_without_a_trained_decoder_is_not_saved(tmp_path):
    domain, config = replace(DOMAIN, picture_size=32), tiny_sharp()
    STAGES["vae"](domain, tmp_path, config)
    with pytest.raises(UsageError, match=r"vae-final: expected a picture VAE, got none; run the stage 'decoder'"):
        STAGES["base"](domain, tmp_path, config)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decoder",), "expected a picture VAE, got none; run the stage 'vae', then this one again"),
        (("base",), "expected a picture VAE, got none; run the stage 'vae', then this one again"),
        (("vae", "--device", "cuda:99"), "expected a device of this machine, got 'cuda:99'"),
    ],
)
def test_stage_out_of_turn_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    run_dir = tmp_path / "run"
    monkeypatch.setattr("sys.argv", ["sharp_models", *arguments, "--run-dir", str(run_dir)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not run_dir.exists()


def test_base_is_saved_with_the_trained_decoder(made):
    _, folder, _ = made
    saved, first, final = (
        AutoencoderKL.from_pretrained(folder / name, torch_dtype=torch.float32)
        for name in ("base/vae", "vae", "vae-final")
    )
    weight = "decoder.conv_out.weight"
    torch.testing.assert_close(saved.state_dict()[weight], final.state_dict()[weight], atol=1e-3, rtol=1e-3)
    assert not torch.equal(first.state_dict()[weight], final.state_dict()[weight])
    assert saved.config.scaling_factor == first.config.scaling_factor


def test_report_holds_what_the_vae_keeps(made):
    domain, folder, config = made
    record = json.loads((folder / "vae.json").read_text())
    assert record["people"] == config.reported_people
    assert record["kept"] == record["through"]["features"]["mean"] / record["real"]["features"]["mean"]
    vae = AutoencoderKL.from_pretrained(folder / "vae-final")
    real = domain.photos(list(range(config.reported_people)), [REAL_FROM] * config.reported_people, 32)
    with torch.no_grad():
        latents = vae.encode(real * 2 - 1).latent_dist.mode()
        through = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    expected = -10 * (through - real).square().mean((1, 2, 3)).log10()
    assert record["psnr"] == pytest.approx(expected.mean().item(), abs=0.05)
    with Image.open(folder / "vae.png") as image:
        assert image.width > 10 * 64  # ten people, if each detail has two


def test_sheet_shows_eight_people_four_ways(made, tmp_path):
    domain, folder, config = made
    with Image.open(folder / "base.png") as image:
        assert image.width > 8 * 32
        assert image.height > 4 * 32
    with pytest.raises(UsageError, match=r"base: expected a base, got none; run the stage 'base'"):
        STAGES["look"](domain, tmp_path, config)


def test_people_of_a_sheet_have_the_details(made):
    domain, folder, _ = made
    reader = Reader.load(domain, folder / "reader.safetensors")
    chosen = people_with_details(reader, list(range(200)), each=2)
    features = domain.features
    there, _ = features.presence(*features.of(domain.identity_factors(chosen)))
    assert len(chosen) == len(set(chosen)) == 2 * len(features.details)
    assert all(there[2 * i : 2 * i + 2, i].all() for i in range(len(features.details)))


def test_report_needs_a_reader(tmp_path):
    with pytest.raises(UsageError, match=r"expected reader.safetensors, got none; run the stage 'reader'"):
        STAGES["report"](DOMAIN, tmp_path, tiny_sharp())


def test_world_encodes_with_its_own_encoder(made):
    domain, folder, _ = made
    world = World(domain=domain, folder=folder)
    photos = world.photos([3, 4], 2)
    assert photos.latents.shape == (2, 2, 32, 2, 2)
    assert world.picture_size == 32
    pictures = world.draw([3], [0], 32)
    torch.testing.assert_close(
        world.base.encode(pictures), encode_affine(*affine_encoder(world.base.pipe.vae), pictures)
    )


def test_stages_that_are_done_are_skipped(made):
    domain, folder, config = made
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "base" not in str(path)}
    for stage in ("vae", "decoder"):
        STAGES[stage](domain, folder, config)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_captions_say_where_a_face_is_turned():
    persons = list(range(300))
    captions, yaw = DOMAIN.captions(persons, [0] * 300), DOMAIN.nuisance_factors(persons, [0] * 300)
    turned = yaw[:, DOMAIN.nuisance.index("yaw")]
    for caption, value in zip(captions, turned.tolist(), strict=True):
        assert ("looking left" in caption) == (value < 0.3)
        assert ("looking right" in caption) == (value > 0.7)


def test_critic_looks_at_latents_of_16_a_side(tmp_path):
    vae = build_vae(DOMAIN.photos(list(range(40)), [0] * 40, 128)).requires_grad_(False)
    world = World(domain=DOMAIN, folder=tmp_path)
    pipe = build_pipeline(DOMAIN.vocabulary, vae, BaseConfig(channels=(32, 32), num_heads=1, text_width=32))
    world.__dict__["base"] = base = DrawnBase(pipe=pipe, name=world.name, picture_size=128)
    critic = RecogniserConfig(loss="arcface", steps=1, batch_size=4)
    net = train_critic(DrawnSubjects(world), RefineConfig(critic=critic, critic_people=8))
    latents = base.encode(world.draw([1, 2], [0, 0], 128))
    assert latents.shape == (2, 16, 16, 16)
    torch.testing.assert_close(net(latents).norm(dim=1), torch.ones(2))


def test_unet_has_attention_at_the_levels_asked_for():
    config = BaseConfig(channels=(32, 64), num_heads=1, text_width=32, attention=(False, True))
    names = [name for name, _ in build_unet(config, 4).named_modules() if name.endswith("attn1")]
    assert names
    assert not any(name.startswith(("down_blocks.0", "up_blocks.1")) for name in names)
