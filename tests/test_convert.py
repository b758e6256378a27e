"""`lorasynth convert`: the same update in another file, what it costs in numbers, and nothing written that is wrong."""

import json
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lorasynth.cli import main
from lorasynth.errors import UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module

FORMATS = ("kohya", "diffusers", "peft")
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def run(monkeypatch, capsys):
    """Function from arguments to (exit code, standard output, standard error), in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lorasynth", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d$") as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def lora():
    """Three modules of two ranks, with metadata."""
    rows = [(f"{BLOCK}.attn1.to_q", 6, 8, 2), (f"{BLOCK}.attn2.to_v", 10, 8, 2), (f"{BLOCK}.ff.net.2", 9, 7, 3)]
    modules = tuple(Module(name=n, in_features=i, out_features=o, rank=r) for n, i, o, r in rows)
    metadata = {"lorasynth.consent": "synthetic", "modelspec.title": "somebody", "note": "not ours"}
    made = LoRA.random(Layout(base="tiny", modules=modules), seed=3, std=0.3)
    return LoRA(made.layout, made.vector, metadata)


def place(folder, format, stem="x"):
    return folder / (stem if format == "peft" else f"{stem}.safetensors")


def weights(path):
    return path / "adapter_model.safetensors" if path.is_dir() else path


def assert_refused(result, *said):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    for words in said:
        assert words in err


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_there_and_back_is_the_same_lora(run, tmp_path, lora, source, target):
    start = lora.save(place(tmp_path, source, "start"), source)
    there, back = place(tmp_path, target, "there"), place(tmp_path, source, "back")
    code, out, _ = run("convert", start, there, "--format", target)
    assert code == 0
    record = json.loads(out)
    assert record.pop("norm") == pytest.approx(lora.norm())
    assert record == {
        "in": str(start), "out": str(there), "format": {"from": source, "to": target}, "base": "tiny", "modules": 3,
        "rank": [2, 3], "dtype": "float32", "squared_relative_error": 0, "faults": [],
        "proved_by": None, "not_proved": "no table has the modules of tiny",
    }  # fmt: skip
    assert run("convert", there, back, "--format", source)[0] == 0
    for path in (there, back):
        again = LoRA.load(path)
        assert again.layout == lora.layout
        assert torch.equal(again.vector, lora.vector)
    assert weights(start).read_bytes() == weights(back).read_bytes()


@pytest.mark.parametrize("target", FORMATS)
def test_kohyas_alpha_is_folded_in(run, tmp_path, target):
    g = torch.Generator().manual_seed(1)
    up, down = torch.randn(8, 2, generator=g), torch.randn(2, 6, generator=g)
    name = f"lora_unet_{BLOCK}.attn1.to_q".replace(".", "_")
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(27.0)}
    save_file(tensors, tmp_path / "kohya.safetensors")
    out = place(tmp_path, target)
    assert run("convert", tmp_path / "kohya.safetensors", out, "--format", target)[0] == 0
    written = load_file(weights(out))
    (A,) = (t for key, t in written.items() if "lora_A" in key or "lora_down" in key)
    (B,) = (t for key, t in written.items() if "lora_B" in key or "lora_up" in key)
    torch.testing.assert_close(B @ A, 27 / 2 * up @ down)
    alphas = [float(t) for key, t in written.items() if key.endswith(".alpha")]
    assert alphas == ([2.0] if target == "kohya" else [])  # the rank: every reader's scale is 1


def test_pefts_own_folder_through_kohya_does_in_peft_what_it_did(run, tmp_path):
    """A small model's, whose modules have a UNet's names: its base is named by whoever converts it."""

    def build():
        torch.manual_seed(0)
        attention = nn.ModuleDict({"to_q": nn.Linear(6, 8), "to_v": nn.Linear(6, 8)})
        for name in reversed(["down_blocks", "0", "attentions", "0", "transformer_blocks", "0", "attn1"]):
            attention = nn.ModuleDict({name: attention})
        return attention

    config = LoraConfig(r=2, lora_alpha=7, use_rslora=True, target_modules=["to_q", "to_v"], init_lora_weights=False)
    model = get_peft_model(build(), config)
    model.save_pretrained(tmp_path / "trained")
    assert run("convert", tmp_path / "trained", tmp_path / "x.safetensors", "--force-base", "small")[0] == 0
    code, out, _ = run("convert", tmp_path / "x.safetensors", tmp_path / "again", "--format", "peft")
    assert code == 0
    assert json.loads(out)["rank"] == 2
    again = PeftModel.from_pretrained(build(), tmp_path / "again")
    x = torch.randn(5, 6)
    for name in ("to_q", "to_v"):
        expected, got = (m.base_model.model.get_submodule(f"{BLOCK}.attn1.{name}")(x) for m in (model, again))
        torch.testing.assert_close(got, expected)
        assert not torch.allclose(got, build().get_submodule(f"{BLOCK}.attn1.{name}")(x))


@pytest.mark.parametrize(("dtype", "low", "high"), [("float16", 1e-9, 1e-6), ("bfloat16", 1e-6, 1e-4)])
@pytest.mark.parametrize("format", FORMATS)
def test_half_precision_is_written_and_its_cost_said(run, tmp_path, lora, format, dtype, low, high):
    start, out = lora.save(tmp_path / "start.safetensors"), place(tmp_path, format)
    report = tmp_path / "report.json"
    code, printed, _ = run("convert", start, out, "--format", format, "--dtype", dtype, "--json", report)
    assert (code, printed) == (0, "")
    assert {t.dtype for k, t in load_file(weights(out)).items() if not k.endswith(".alpha")} == {getattr(torch, dtype)}
    error = json.loads(report.read_text())["squared_relative_error"]
    again = LoRA.load(out)
    # By the definition, from updates formed whole.
    pairs = [(lora.delta_W(m.name).double(), again.delta_W(m.name).double()) for m in lora.layout.modules]
    expected = sum((a - b).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs)
    assert error == pytest.approx(expected.item(), rel=1e-3)
    assert low < error < high


def test_what_lora_save_keeps_of_metadata_is_kept(run, tmp_path, lora):
    start = tmp_path / "start.safetensors"
    lora.save(start, metadata={"note": "not ours"})
    assert run("convert", start, tmp_path / "x.safetensors", "--format", "diffusers")[0] == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["lorasynth.consent"] == "synthetic"
    assert metadata["modelspec.title"] == "somebody"
    assert metadata["lorasynth.layout"] == lora.layout.hash
    assert "note" not in metadata


@pytest.mark.parametrize("format", FORMATS)
def test_bad_file_is_refused_and_nothing_is_written(run, tmp_path, lora, format):
    good = load_file(lora.save(tmp_path / "good.safetensors"))
    key = next(k for k in good if k.endswith("lora_up.weight"))
    nan = good | {key: torch.full_like(good[key], float("nan"))}
    half = {k: t for k, t in good.items() if k != key}
    for name, tensors in {"nan": nan, "half": half}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "text.safetensors").write_text("not a LoRA, only words and words")
    there = sorted(tmp_path.iterdir())
    said = {"nan": "NaN", "half": "both lora_A and lora_B", "text": "expected", "none": "expected"}
    for name, words in said.items():
        result = run("convert", tmp_path / f"{name}.safetensors", place(tmp_path, format), "--format", format)
        assert_refused(result, f"{name}.safetensors", words)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("format", FORMATS)
def test_output_that_exists_is_kept_without_force(run, tmp_path, lora, format):
    start = lora.save(tmp_path / "start.safetensors")
    out = lora.scaled(2.0).save(place(tmp_path, format), format)
    before = weights(out).read_bytes()
    assert_refused(run("convert", start, out, "--format", format), str(out), "--force")
    assert weights(out).read_bytes() == before
    assert run("convert", start, out, "--format", format, "--force")[0] == 0
    assert torch.equal(LoRA.load(out).vector, lora.vector)


def test_file_can_take_its_own_place(run, tmp_path, lora):
    path = lora.save(tmp_path / "x.safetensors", "diffusers")
    assert_refused(run("convert", path, path), "exists already")
    assert run("convert", path, path, "--force", "--dtype", "float16")[0] == 0
    assert LoRA.load(path).norm() == pytest.approx(lora.norm(), rel=1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_too_large_for_float16_are_refused(run, tmp_path, lora, format):
    start = lora.scaled(1e6).save(tmp_path / "start.safetensors")
    out = place(tmp_path, format)
    assert_refused(
        run("convert", start, out, "--format", format, "--dtype", "float16"), "65504", "save as float32", "to_q"
    )
    assert not out.exists()
    assert run("convert", start, out, "--format", format, "--dtype", "bfloat16")[0] == 0


def test_modules_of_no_known_base_stay_in_their_format(run, tmp_path):
    """No program would find them under a name that is a guess; whoever names the base says that it is none."""
    module = Module(name="model.layers.0.self_attn.q_proj", in_features=6, out_features=8, rank=2)
    start = LoRA.random(Layout(base="", modules=(module,))).save(tmp_path / "start", "peft")
    out = tmp_path / "x.safetensors"
    for format in ("kohya", "diffusers"):
        result = run("convert", start, out, "--format", format)
        assert_refused(result, str(start), f"format '{format}'", "self_attn.q_proj", "'peft'", "--force-base")
        assert_refused(
            run("convert", start, out, "--format", format, "--force-base", "mine"), "self_attn.q_proj", "'peft'"
        )
        assert not out.exists()
    assert run("convert", start, tmp_path / "again", "--format", "peft")[0] == 0


def test_folder_for_a_file_and_a_file_for_a_folder_are_refused(run, tmp_path, lora):
    start = lora.save(tmp_path / "start.safetensors")
    assert_refused(run("convert", start, tmp_path), "got a folder")
    assert_refused(run("convert", start, tmp_path / "y.safetensors", "--format", "peft"), "expected a folder")
    assert_refused(run("convert", start, tmp_path / "no" / "y.safetensors"), "does not exist")
    assert_refused(run("convert", start, tmp_path / "y.safetensors", "--device", "tpu"), "expected device cpu")
    assert list(tmp_path.iterdir()) == [start]


def test_lora_that_does_nothing_is_converted_only_if_it_is_meant(run, tmp_path, lora):
    start, out = lora.scaled(0.0).save(tmp_path / "start.safetensors"), tmp_path / "x.safetensors"
    assert_refused(run("convert", start, out), str(start), "expected an update, got zero everywhere", "--allow-zero")
    assert list(tmp_path.iterdir()) == [start]
    code, out_text, _ = run("convert", start, out, "--allow-zero")
    record = json.loads(out_text)
    assert (code, record["norm"], record["squared_relative_error"]) == (0, 0, 0)
    assert LoRA.load(out).norm() == 0


def with_text_encoder(lora, folder, format):
    """The LoRA with two tensors of a text encoder's beside it."""
    path = lora.save(folder / "start.safetensors", format)
    name = {
        "kohya": "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "diffusers": "text_encoder.encoder.layers.0.mlp.fc1",
    }
    halves = ("lora_down", "lora_up") if format == "kohya" else ("lora_A", "lora_B")
    more = {f"{name[format]}.{h}.weight": torch.ones(2, 2) for h in halves}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) | more, path, metadata)
    return path


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_text_encoders_part_is_left_out_only_where_asked_for(run, tmp_path, lora, format):
    start, out = with_text_encoder(lora, tmp_path, format), tmp_path / "x.safetensors"
    assert_refused(run("convert", start, out), str(start), "one of a text encoder", "--unet-only")
    code, seen, err = run("inspect", start)
    assert (code, "--unet-only" in err, json.loads(seen)["faults"][0]["fatal"]) == (2, True, True)
    asked = json.loads(seen)
    code, seen, _ = run("inspect", start, "--unet-only")
    (fault,) = json.loads(seen)["faults"]
    assert (code, fault["code"], fault["fatal"]) == (0, "text-encoder", False)
    assert (asked["norm"], asked["faults"][1]["actual"] + ", left out") == (json.loads(seen)["norm"], fault["actual"])
    share = 16 / (16 + lora.norm() ** 2)  # of ‖ones(2, 2) @ ones(2, 2)‖²
    assert fault["actual"] == f"2 tensors of text encoders, with {share:.2g} of the file's ‖ΔW‖², left out"
    code, report, _ = run("convert", start, out, "--unet-only")
    assert (code, json.loads(report)["faults"][0]["actual"]) == (0, "2 tensors of text encoders, left out")
    assert torch.equal(LoRA.load(out).vector, lora.vector)


def test_text_encoders_lora_alone_is_no_unets(run, tmp_path):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{name}.lora_{h}.weight": torch.ones(2, 2) for h in ("down", "up")}, tmp_path / "te.safetensors")
    result = run("convert", tmp_path / "te.safetensors", tmp_path / "x.safetensors", "--unet-only")
    assert_refused(result, f"{name}.lora_down.weight: expected modules of the UNet or transformer, got none")


def test_base_can_be_named_against_what_the_file_says(run, tmp_path):
    module = Module(name=f"{BLOCK.replace('0', '1', 1)}.attn2.to_k", in_features=2048, out_features=640, rank=1)
    lora = LoRA.random(Layout(base="sd15", modules=(module,)))  # of SDXL, by its shapes
    start, out = lora.save(tmp_path / "start.safetensors"), tmp_path / "x.safetensors"
    said = "lorasynth.base: expected sdxl, the base model by its shapes, got sd15"
    assert_refused(run("convert", start, out), said, "--force-base")
    assert run("inspect", start)[0] == 2
    code, seen, _ = run("inspect", start, "--force-base", "sdxl")
    seen = json.loads(seen)
    assert (code, seen["base"], [(f["code"], f["fatal"]) for f in seen["faults"]]) == (0, "sdxl", [("base", False)])
    code, report, _ = run("convert", start, out, "--force-base", "sdxl")
    assert (code, json.loads(report)["base"]) == (0, "sdxl")
    again = LoRA.load(out)
    assert (again.layout.base, torch.equal(again.vector, lora.vector)) == ("sdxl", True)


@pytest.mark.parametrize("base", ["", "a\nb", "x" * 201, "\x1b[2J"])
def test_base_that_is_no_name_is_refused(run, tmp_path, lora, base):
    start = lora.save(tmp_path / "start.safetensors")
    for words in (["inspect", start], ["convert", start, tmp_path / "x.safetensors"]):
        assert_refused(run(*words, "--force-base", base), "--force-base: expected a name of 1 to 200 characters")


def test_base_that_has_other_modules_is_to_be_named(run, tmp_path):
    """Another format would not help."""
    module = Module(name=f"{BLOCK}.attn2.to_k", in_features=768, out_features=320, rank=1)
    start = LoRA.random(Layout(base="sd15", modules=(module,))).save(tmp_path / "start.safetensors")
    code, _, error = run("convert", start, tmp_path / "x.safetensors", "--force-base", "sdxl")
    assert (code, "--format" in error) == (2, False)
    assert "expected sd15, the base model by its shapes, got sdxl" in error
    assert error.endswith("Name the base model that has these modules with --force-base\n")


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.bin", "x", "x.safetensors.part"])
def test_lora_s_file_ends_as_one(run, tmp_path, lora, name):
    """Under another ending it would be taken for a pickle, or for nothing."""
    start = lora.save(tmp_path / "start.safetensors")
    for format in ("kohya", "diffusers"):
        result = run("convert", start, tmp_path / name, "--format", format)
        assert_refused(result, "expected a name that ends in .safetensors, got ")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        lora.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == [start]


@pytest.mark.parametrize("target", FORMATS)
def test_flux_lora_goes_through_every_format(run, tmp_path, target):
    rows = [(f"transformer_blocks.3.attn.to_{part}", 3072, 3072, 2) for part in ("q", "k", "v", "out.0")]
    modules = tuple(Module(name=n, in_features=i, out_features=o, rank=r) for n, i, o, r in rows)
    lora = LoRA.random(Layout(base="flux", modules=modules), seed=3)
    start, out = lora.save(tmp_path / "start.safetensors", "diffusers"), place(tmp_path, target)
    code, report, _ = run("convert", start, out, "--format", target)
    assert (code, json.loads(report)["squared_relative_error"], json.loads(report)["base"]) == (0, 0, "flux")
    again = LoRA.load(out)
    assert (again.layout, torch.equal(again.vector, lora.vector)) == (lora.layout, True)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize(
    ("base", "rows", "reader"),
    [
        (
            "sd15",
            [(f"{BLOCK}.attn2.to_k", 768, 320, 2), (f"{BLOCK}.ff.net.2", 1280, 320, 3)],
            "StableDiffusionLoraLoaderMixin",
        ),
        (
            "sdxl",
            [("add_embedding.linear_1", 2816, 1280, 2), ("time_embedding.linear_2", 1280, 1280, 2)],
            "StableDiffusionLora",
        ),
        ("flux", [("single_transformer_blocks.37.proj_mlp", 3072, 12288, 1)], "FluxLoraLoaderMixin"),
        ("chroma", [("transformer_blocks.0.attn.add_q_proj", 3072, 3072, 1)], "FluxLoraLoaderMixin"),
        ("qwen-image", [("transformer_blocks.59.img_mlp.net.2", 12288, 3072, 1)], "QwenImageLoraLoaderMixin"),
        ("wan", [("blocks.3.attn1.to_q", 1536, 1536, 1)], "WanLoraLoaderMixin"),
        ("pixart", [("transformer_blocks.3.attn1.to_q", 1152, 1152, 1)], ""),
    ],
)
def test_reader_of_the_target_proves_the_file(run, tmp_path, target, base, rows, reader):
    modules = tuple(Module(name=n, in_features=i, out_features=o, rank=r) for n, i, o, r in rows)
    start = LoRA.random(Layout(base=base, modules=modules), seed=3).save(tmp_path / "start.safetensors", "diffusers")
    result = run("convert", start, place(tmp_path, target), "--format", target)
    if target == "kohya" and base in ("qwen-image", "wan", "pixart"):
        assert_refused(result, f"'diffusers' or 'peft' for '{base}', got 'kohya'")
        return
    record = json.loads(result[1])
    assert (result[0], record["squared_relative_error"]) == (0, 0)
    if target == "peft":
        assert record["proved_by"].startswith("PEFT ")
    elif reader:
        assert reader in record["proved_by"]
        assert record["proved_by"] in result[2]
    else:
        assert "has no reader for LoRAs of pixart" in record["not_proved"]
        assert "not proved" in result[2]


def test_file_that_the_reader_does_not_take_is_refused(run, tmp_path, monkeypatch):
    """As if diffusers lost a module on the way: what is applied nowhere is not written with error 0."""
    from lorasynth.lora import base_readers

    real = base_readers.read_as_diffusers

    def losing(base, tensors):
        return {key: t for key, t in real(base, tensors).items() if "to_k" not in key}

    monkeypatch.setattr(base_readers, "read_as_diffusers", losing)
    modules = tuple(Module(name=f"{BLOCK}.attn1.to_{p}", in_features=320, out_features=320, rank=1) for p in "qkv")
    start = LoRA.random(Layout(base="sd15", modules=modules)).save(tmp_path / "start.safetensors")
    result = run("convert", start, tmp_path / "x.safetensors", "--format", "diffusers")
    assert_refused(result, str(start), "to take the 3 modules, got 1 that differ")
    assert not (tmp_path / "x.safetensors").exists()


def test_format_that_a_base_has_not_is_refused_unwritten(run, tmp_path):
    module = Module(name="transformer_blocks.3.attn.to_q", in_features=1536, out_features=1536, rank=2)
    start = LoRA.random(Layout(base="sd3", modules=(module,))).save(tmp_path / "start.safetensors", "diffusers")
    assert_refused(run("convert", start, tmp_path / "x.safetensors"), "'diffusers' or 'peft' for 'sd3', got 'kohya'")
    assert list(tmp_path.iterdir()) == [start]
