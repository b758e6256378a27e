"""The appearance net: it sees photos as the picture VAE does, learns what persists, and is joined with the encoder."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lorasynth.canonical import Canonicalizer
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.images import to_image
from lorasynth.errors import ModelError
from lorasynth.pipeline.workspace import Workspace
from lorasynth.prior import RidgePrior
from lorasynth.recipes import get_recipe
from lorasynth.storage.files import write_tensors
from lorasynth.storage.weights import large_tables, pack
from lorasynth.subjects import GIVEN, SIMILARITY
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.vae import LoRAVAE
from lorasynth.worlds import world as worlds
from lorasynth.worlds.appearance_training import AppearanceConfig, train_appearance, whitening
from lorasynth.worlds.recogniser import AppearanceNet, Joined
from lorasynth.worlds.vae import build_vae
from lorasynth.worlds.world import ASSETS, get_domain, get_world

PEOPLE = [3, 60_001]


def save(net, path):
    state = net.state_dict()
    write_tensors(path, pack(state, large_tables(state)))


@pytest.fixture
def seeing(tmp_path, monkeypatch):
    """The portraits, with an appearance net of random weights beside their encoder."""
    folder = tmp_path / "portraits"
    folder.mkdir()
    for path in (ASSETS / "portraits").iterdir():
        (folder / path.name).symlink_to(path)
    torch.manual_seed(0)
    save(AppearanceNet(), folder / "appearance.safetensors")
    monkeypatch.setattr(worlds, "ASSETS", tmp_path)
    return get_world("portraits")


def test_embedding_is_the_encoders_and_the_nets_side_by_side(seeing):
    pictures = seeing.draw(PEOPLE, [0, 1], 64)
    recogniser, appearance = seeing.embedder.nets
    embedding = seeing.embedder(pictures)
    assert embedding.shape == (2, seeing.embedder.embedding_dim) == (2, 1024)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(embedding[:, :512] * 2**0.5, seeing.encoder(pictures))
    torch.testing.assert_close(embedding[:, 512:] * 2**0.5, appearance(pictures))
    assert recogniser is seeing.encoder


def test_world_without_a_net_is_given_to_its_encoder_alone():
    world = get_world("portraits")
    assert world.embedder is world.encoder


def test_subjects_are_given_by_both_and_scored_by_the_encoder(seeing):
    subjects = DrawnSubjects(seeing)
    assert torch.equal(subjects.given(PEOPLE), subjects.given(PEOPLE, by=GIVEN))
    assert subjects.given(PEOPLE).shape == (2, 1, 1024)
    assert subjects.given(PEOPLE, by=SIMILARITY).shape == (2, 1, 512)
    assert subjects.centroids(PEOPLE).shape == (2, 512)
    assert DrawnSubjects(seeing, seeing.encoder).given(PEOPLE).shape == (2, 1, 512)


def synthesizer(world, *, alone=False):
    """A synthesizer of the world as it is: one prior, of what photos are given to. The other parts are shipped ones."""
    shipped = ASSETS / "portraits128" / "synthesizer"
    encoder, vae = WorldEncoder(world, alone=alone), LoRAVAE.load(shipped / "vae.safetensors")
    ridge = RidgePrior(torch.randn(vae.latent_dim, encoder.dim), torch.zeros(vae.latent_dim))
    return Synthesizer(
        base=world.name, encoder=encoder, canonicalizer=Canonicalizer.load(shipped / "canonical.safetensors"), vae=vae,
        priors={"ridge": ridge}, default_prior="ridge", settings={"ridge": {}},
    )  # fmt: skip


def test_model_says_both_files_and_is_read_with_both(seeing, tmp_path):
    model = synthesizer(seeing)
    model.save_pretrained(tmp_path / "model")
    said = json.loads((tmp_path / "model" / "config.json").read_text())["encoder"]
    assert said.keys() == {"world", "sha256", "appearance"}
    again = Synthesizer.from_pretrained(tmp_path / "model")
    assert isinstance(again.encoder.net, Joined)
    photo = tmp_path / "photo.png"
    to_image(seeing.draw([3], [0], 64)[0]).save(photo)
    torch.testing.assert_close(again.embed(photo), model.embed(photo))


def test_model_of_before_the_net_is_read_with_the_encoder_alone(seeing, tmp_path):
    synthesizer(seeing, alone=True).save_pretrained(tmp_path / "model")
    model = Synthesizer.from_pretrained(tmp_path / "model")
    assert isinstance(seeing.embedder, Joined)
    assert model.encoder.net is model.encoder.world.encoder
    assert model.encoder.dim == 512
    assert "appearance" not in model.encoder.record["files"]


@pytest.mark.parametrize("change", ["another", "none"])
def test_model_of_another_net_is_refused(seeing, tmp_path, change):
    synthesizer(seeing).save_pretrained(tmp_path / "model")
    seeing.appearance_file.unlink()
    if change == "another":
        save(AppearanceNet(), seeing.appearance_file)
    with pytest.raises(
        ModelError, match=r"expected the appearance net of world 'portraits' with sha256 [0-9a-f]{12}, got"
    ):
        Synthesizer.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(("numbers", "alone"), [(512, True), (1024, False)])
def test_zoo_of_before_the_net_goes_on_with_the_encoder_alone(seeing, tmp_path, numbers, alone):
    said = []
    work = Workspace(
        recipe=get_recipe("portraits_tiny"), folder=tmp_path, zoo_folder=tmp_path / "zoo", report=said.append
    )
    work.__dict__["rows"] = SimpleNamespace(embeddings=torch.zeros(2, 12, numbers))
    work.__dict__["zoo"] = SimpleNamespace(recipe={})
    assert work.subjects.given(PEOPLE).shape == (2, 1, numbers)
    assert work.encoder_fields()["encoder"].dim == numbers
    assert ("appearance" in work.encoder_fields()["encoder"].files) is not alone
    assert len(said) == alone


def test_components_are_of_unit_variance_and_independent():
    torch.manual_seed(0)
    vectors = torch.randn(400, 3) @ torch.randn(3, 12) * torch.linspace(1, 9, 12) + 5
    found = whitening(vectors, 3)(vectors)
    torch.testing.assert_close(torch.cov(found.T), torch.eye(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    # Of three directions that vary, three components leave nothing to tell.
    told = torch.linalg.lstsq(found, vectors - vectors.mean(0)).solution
    torch.testing.assert_close(found @ told, vectors - vectors.mean(0), atol=1e-2, rtol=0)


def test_few_people_have_fewer_components():
    assert whitening(torch.randn(5, 12), 256).components == 4


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A net that has learned for some steps, the VAE whose patches it sees, and what was reported."""
    domain, said = replace(get_domain("portraits"), picture_size=32), []
    vae = build_vae(domain.photos(list(range(200_000, 200_064)), [0] * 64, 32))
    config = AppearanceConfig(
        width=32, people=96, strangers=32, photos=2, components=6, batch_size=32, steps=150, learning_rate=5e-3
    )
    net = train_appearance(domain, vae, config, run_dir=tmp_path_factory.mktemp("run"), report=said.append)
    return net, vae, domain, said


@pytest.mark.slow
def test_net_sees_the_latents_of_the_vae(taught):
    net, vae, domain, _ = taught
    pictures = domain.photos([5, 6], [0, 0], net.size)
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(net.patches(pictures), latents, atol=2e-2, rtol=0)
    torch.testing.assert_close(net(pictures), F.normalize(net.net(net.patches(pictures)), dim=1))
    assert not net.training


@pytest.mark.slow
def test_net_tells_strangers_better_than_their_mean_does(taught):
    """The mean of all people has an error of 1, and so has a net that learned its people by heart."""
    _, _, _, said = taught
    assert len(said) == 1
    assert float(said[0].rsplit(" ", 1)[1]) < 0.95
