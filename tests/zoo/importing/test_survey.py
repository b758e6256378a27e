"""What an import would take and lose is said before it begins; every zoo that comes out of one can be learned from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module
from lorasynth.recipes import imported as recipe_module
from lorasynth.recipes.imported import imported
from lorasynth.synthesizer import Synthesizer
from lorasynth.teaching import shortcoming, shortcoming_of_latents
from lorasynth.training import LoopConfig
from lorasynth.zoo import Zoo
from lorasynth.zoo.importing.survey import KEEP, of_rank, survey
from lorasynth.zoo.manifest import Item

PREFIX = "down_blocks.0.attentions.0.transformer_blocks.0.attn1."


def layout(*names, rank=4, base="sd15"):
    return Layout(
        base=base, modules=tuple(Module(name=PREFIX + n, in_features=320, out_features=320, rank=rank) for n in names)
    )


def lora(path, seed, of, spectrum=None):
    """A random LoRA; with ``spectrum``, the singular values of each of its updates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = LoRA.random(of, seed=seed, std=0.1)
    if spectrum is not None:
        generator, factors = torch.Generator().manual_seed(seed), {}
        for m in of.modules:
            A, B = (
                torch.linalg.qr(torch.randn(n, m.rank, generator=generator))[0] for n in (m.in_features, m.out_features)
            )
            factors[m.name] = ((A * torch.tensor(spectrum)).T[None], B[None])
        made = LoRA(of, of.join(factors)[0])
    made.save(path)
    np.save(path.with_suffix(".npy"), np.random.default_rng(seed).normal(size=8))
    return path


def test_modules_are_those_by_which_most_of_the_loras_come_in(tmp_path):
    wide, narrow = layout("to_q", "to_v", "to_k"), layout("to_q", "to_v")
    loras = [lora(tmp_path / f"w{n}.safetensors", n, wide) for n in range(3)]
    assert survey(loras).layout == wide.of_rank(survey(loras).rank)
    loras += [lora(tmp_path / f"n{n}.safetensors", 9 + n, narrow) for n in range(3)]
    seen = survey(loras)
    assert [m.name for m in seen.layout.modules] == [m.name for m in narrow.modules]
    assert seen.left_out == ()
    assert 0.1 < seen.lost_by_modules < 0.25  # half of the LoRAs lose a third


def test_what_no_two_files_share_does_not_decide(tmp_path):
    """Neither set holds the other: what both have is taken."""
    loras = [lora(tmp_path / f"a{n}.safetensors", n, layout("to_q", "to_v", "to_k")) for n in range(2)]
    loras += [lora(tmp_path / f"b{n}.safetensors", 9 + n, layout("to_q", "to_v", "to_out.0")) for n in range(2)]
    assert [m.name for m in survey(loras).layout.modules] == [m.name for m in layout("to_q", "to_v").modules]


def test_rank_is_the_least_that_keeps_what_it_promises(tmp_path):
    spectrum = [1.0, 0.5, 0.2, 0.1]  # squares 1, 0.25, 0.04, 0.01: rank 2 keeps 0.96
    loras = [lora(tmp_path / f"{n}.safetensors", n, layout("to_q", "to_v"), spectrum) for n in range(3)]
    seen = survey(loras)
    assert (seen.rank, seen.rank_to_keep) == (2, 2)
    assert 1 - seen.lost_by_rank == pytest.approx(1.25 / 1.30, abs=1e-3)
    assert 1 - seen.lost_by_rank > KEEP
    low = survey(loras, rank=1)
    assert low.lost_by_rank == pytest.approx(0.30 / 1.30, abs=1e-3)
    assert any("rank 1 keeps less than 0.95" in line and "--rank 2 keeps it" in line for line in low.lines())
    assert not any("keeps less" in line for line in seen.lines())


def test_layer_narrower_than_the_rank_has_its_width():
    narrow = Layout(base="", modules=(Module(name="a", in_features=3, out_features=9, rank=1), *layout("to_q").modules))
    assert sorted(m.rank for m in of_rank(narrow, 8).modules) == [3, 8]


def test_bad_files_and_other_bases_are_said_and_do_not_decide(tmp_path):
    loras = [lora(tmp_path / f"{n}.safetensors", n, layout("to_q")) for n in range(3)]
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    other = lora(tmp_path / "other.safetensors", 7, layout("to_q", base="sdxl"))
    seen = survey([*loras, tmp_path / "bad.safetensors", other])
    assert seen.layout.base == "sd15"
    assert {path.name for path, _ in seen.left_out} == {"bad.safetensors", "other.safetensors"}
    with pytest.raises(ZooError, match=r"got none of 1 that can be read; the first: .*bad"):
        survey([tmp_path / "bad.safetensors"])
    with pytest.raises(ZooError, match="give --layout auto for what they have"):
        survey(loras, layout("to_v"))


def test_command_says_it_before_it_begins(tmp_path):
    folder = tmp_path / "loras"
    path = lora(folder / "0.safetensors", 0, layout("to_q", "to_v"))
    text = {"lora_down.weight": torch.ones(2, 768), "lora_up.weight": torch.ones(3072, 2), "alpha": torch.tensor(2.0)}
    prefix = "lora_te_text_model_encoder_layers_0_mlp_fc1."
    whole = load_file(path) | {prefix + key: tensor for key, tensor in text.items()}
    save_file(whole, path, {"lorasynth.base": "sd15"})
    command = ["zoo", "import", str(folder), "--out", str(tmp_path / "zoo"), "--licence", "x"]
    result = CliRunner().invoke(app, [*command, "--dry-run", "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["survey"]["with_text_encoders"] == 1
    assert not (tmp_path / "zoo").exists()
    result = CliRunner().invoke(app, [*command, "--rank", "1"])
    assert "rank 1 keeps less than 0.95 of ‖ΔW‖²" in result.stderr
    assert "1 LoRAs have text encoders' parts, which are left out" in result.stderr
    assert "1 of 1 LoRAs lost more than 0.05 of ‖ΔW‖²" in result.stderr
    lora(folder / "1.safetensors", 1, layout("to_q", "to_v", "to_k"))
    result = CliRunner().invoke(app, command)  # a zoo that is there has chosen
    assert result.exit_code == 0, result.output
    assert Zoo.open(tmp_path / "zoo").layout == layout("to_q", "to_v", rank=1)
    assert len(Zoo.open(tmp_path / "zoo")) == 2


def test_folder_of_pickles_alone_is_refused_by_naming_one(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "anna.pt").write_bytes(b"x")
    command = ["zoo", "import", str(tmp_path / "loras"), "--out", str(tmp_path / "zoo"), "--licence", "x"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ZooError)
    assert "anna.pt: expected a .safetensors file, got a pickle" in str(result.exception)


@pytest.fixture
def quick(monkeypatch):
    """The recipe with a few steps."""
    small = recipe_module.sd15_faces_small()
    loop = LoopConfig(steps=10, learning_rate=1e-3)
    few = replace(
        small, vae=replace(small.vae, hidden_dim=16, loop=loop),
        priors=tuple(replace(p, width=16, depth=1, loop=loop) for p in small.priors), regression=loop,
    )  # fmt: skip
    monkeypatch.setattr(recipe_module, "sd15_faces_small", lambda: few)


@pytest.mark.slow
def test_any_zoo_can_be_learned_from_and_says_if_it_taught_none(tmp_path, quick):
    """Forty random LoRAs under default settings, of a base that no preset is of, and their synthesizer."""
    for n in range(40):
        lora(tmp_path / "loras" / f"{n}.safetensors", n, layout("to_q", "to_v", base="a-base"))
    command = ["zoo", "import", str(tmp_path / "loras"), "--out", str(tmp_path / "zoo"), "--licence", "x"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        app, ["train", "all", "imported", "--zoo", str(tmp_path / "zoo"), "--out", str(tmp_path / "fit")]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "this zoo taught nothing: the best prior explains 0.0" in result.stderr
    model = Synthesizer.from_pretrained(tmp_path / "fit" / "synthesizer")
    assert (model.base, model.canonicalizer.layout.base) == ("a-base", "a-base")
    assert "**Warning**: this zoo taught nothing" in model.card
    result = CliRunner().invoke(
        app,
        [
            "synthesize", "--embedding", str(tmp_path / "loras" / "0.npy"), "-o", str(tmp_path / "o.safetensors"), "--model",
            str(tmp_path / "fit" / "synthesizer"), "--consent", "synthetic",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert "warning: this zoo taught nothing" in result.stderr
    assert LoRA.load(tmp_path / "o.safetensors").layout == Zoo.open(tmp_path / "zoo").layout


def test_size_of_a_model_follows_the_number_of_loras(tmp_path):
    zoo = replace(Zoo.create(tmp_path / "zoo", layout("to_q"), {}, None), items=())

    def size(count):
        item = Item(id="a", person=1, split="train", shard="s", row=0, sha256="", source="", licence="")
        fitted = imported().seeded(3).fitted_to(replace(zoo, items=(item,) * count))
        assert {fitted.vae.loop.seed, *(p.loop.seed for p in fitted.priors)} == {3}
        return fitted.vae.latent_dim, fitted.priors[0].width, fitted.base

    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert size(10)[0] == 2
    assert size(653)[0] == 81
    assert (size(60_000)[0], size(60_000)[1], size(60_000)[2]) == (512, 1024, base)


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ({"adalora": {"explained": 0.3, "size": 0.6}}, ""),
        ({"adalora": {"explained": -0.1, "size": 0.6}, "ridge": {"explained": 0.2, "size": 0.5}}, ""),
        ({"adalora": {"explained": -0.1, "size": 0.6}}, "explains 0.00 "),
        ({"adalora": {"explained": 0.01, "size": 0.06}}, "at most 0.06 times as large"),
        ({}, ""), (None, ""), ({"x": 7}, ""), ({"x": {"explained": "a"}}, ""),
    ],
)  # fmt: skip
def test_models_own_record_says_whether_it_learned_anything(errors, says):
    assert says in shortcoming(errors)
    assert bool(shortcoming(errors)) == bool(says)


def test_latents_that_nothing_explains_are_said_too():
    assert (
        shortcoming_of_latents({"adalora": {"explained": 0.0, "ridge_explained": 0.4}, "ridge": {"lambda": 1.0}}) == ""
    )
    assert "at most 0.01" in shortcoming_of_latents({"adalora": {"explained": -0.2, "ridge_explained": 0.01}})
