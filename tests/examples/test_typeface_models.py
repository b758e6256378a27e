"""Every model of the typefaces is made in a few steps, from training families alone, and opens by its documented name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import models
from drawing import LETTERS
from faces import survey
from lorasynth.opening import open_base, open_encoder
from lorasynth.storage.reading import read_json
from lorasynth.training import LoopConfig
from pool import open_pool
from recognisers import RecogniserConfig, read, right

from .fonts import make_families

_FEW = LoopConfig(steps=2, warmup_steps=1)


def few():
    standard = models.ModelsConfig()
    return models.ModelsConfig(
        each=52,
        decoder=replace(standard.decoder, batch_size=2, loop=_FEW),
        base=replace(standard.base, channels=(32, 32), batch_size=2, loop=_FEW),
        recognisers=RecogniserConfig(batch_size=4, encoder_apart=_FEW, encoder=_FEW, second=_FEW, reader=_FEW),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    top = tmp_path_factory.mktemp("typefaces")
    fonts = make_families(top / "fonts", families=6)
    survey(fonts, held_out=2, faces_a_family=2).save(top / "faces.json", fonts)
    return top


def make(stage, data, out):
    return models.main([stage, "--data", str(data), "--out", str(out)], few())


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    for stage in (*models.STAGES, "report"):
        assert make(stage, data, out) == 0
    return out


@pytest.mark.slow
def test_base_opens_as_stable_diffusion_of_small_pictures(made):
    base = open_base(str(made / "base"))
    assert (base.family, base.picture_size) == ("sd15", 64)


@pytest.mark.slow
def test_letters_of_captions_are_one_token_each(made):
    tokenizer = open_base(str(made / "base")).pipe.tokenizer
    tokens = tokenizer.tokenize("the capital letters R, a in sks typeface, white on grey")
    assert [token.removesuffix("</w>") for token in tokens] == [
        "the", "capital", "letters", "r", ",", "a", "in", "sks", "typeface", ",", "white", "on", "grey",
    ]  # fmt: skip


@pytest.mark.slow
def test_order_of_letters_reaches_the_base(made):
    prompts = open_base(str(made / "base")).prompts(
        [f"the small letters {x}, {y} in sks typeface" for x, y in ("ab", "ba")]
    )
    first, second = prompts.tensors["encoder_hidden_states"][:, [4, 6]].unbind()
    assert (first - second.flip(0)).norm() > 0.1 * first.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [("encoder", 512), ("second", 256)])
def test_recogniser_opens_as_an_aligned_encoder(made, data, name, dim):
    encoder = open_encoder(f"aligned:{made / name}.onnx")
    faces = models.Survey.load(data / "faces.json").held_out
    photos = [(picture.permute(1, 2, 0) * 255).byte().numpy() for picture in models.letters_of(faces[0], "Ra")]
    embeddings = encoder.embed(photos)
    assert embeddings.shape == (2, dim)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))


@pytest.mark.slow
def test_report_says_how_good_the_models_are(made):
    record = read_json(made / "report.json")
    assert set(record) >= {
        "encoder.tar_at_far_1e-3",
        "second.tar_at_far_1e-3",
        "reader.right",
        "reader.right_but_for_case",
    }
    assert 0 <= record["reader.right"] <= record["reader.right_but_for_case"] <= 1


@pytest.mark.slow
def test_second_run_of_a_stage_changes_nothing(made, data):
    before = {
        path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file() and path.name != "report.json"
    }
    for stage in models.STAGES:
        make(stage, data, made)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3])
def test_stopped_encoder_goes_on_to_the_same_file(made, data, tmp_path, stopped_in_step, step):
    with stopped_in_step(step):
        make("encoder", data, tmp_path)
    assert make("encoder", data, tmp_path) == 0
    assert (tmp_path / "encoder.onnx").read_bytes() == (made / "encoder.onnx").read_bytes()


@pytest.mark.slow
def test_pool_shows_all_letters_equally_often(made, data):
    faces = models.Survey.load(data / "faces.json").train
    pool = open_pool(faces, 52, made / "pool")
    first = [str(letters)[0] for letters in pool.labels["letters"]]
    assert {first.count(letter) for letter in LETTERS} == {len(faces)}
    rows, letters = pool.single
    captions = pool.captions(rows[:5], "sks typeface")
    for caption, letter in zip(captions, letters[:5].tolist(), strict=True):
        kind = "capital" if LETTERS[letter].isupper() else "small"
        assert caption.startswith(f"the {kind} letter {LETTERS[letter]} in sks typeface, ")
    assert pool.pictures(rows[:2]).shape == (2, 3, 64, 64)


def test_base_is_refused_before_its_picture_vae(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        make("base", data, tmp_path)
    assert refused.value.code == 2
    assert "run the stage 'vae', then this one again" in capsys.readouterr().err


@pytest.mark.slow
def test_reader_answers_with_letters(made, data):
    faces = models.Survey.load(data / "faces.json").train
    reader = models.open_reader(made / "reader.safetensors")
    found = read(reader, models.letters_of(faces[0]))
    assert len(found) == 52
    assert right("abC", "abc") == pytest.approx(2 / 3)
    assert np.isin(list(found), list(LETTERS)).all()
