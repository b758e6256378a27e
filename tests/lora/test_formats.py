"""Files of every format against the programs' own loaders and savers."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lorasynth.errors import LayoutError, OutputExistsError, UsageError
from lorasynth.lora import base_models
from lorasynth.lora.factors import LoRA, delta_W_relative_error
from lorasynth.lora.formats.kohya import to_state_dict
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.layout import Layout, Module

FORMATS = ("kohya", "diffusers", "peft")


def file_name(format):
    return "adapter" if format == "peft" else f"{format}.safetensors"


@pytest.fixture(params=["attention", "everything"])
def lora(request, mixed_layout, whole_layout):
    """On attention, in several ranks; on all linear layers and convolutions."""
    layout, std = (mixed_layout, 0.3) if request.param == "attention" else (whole_layout, 0.1)
    return LoRA.random(layout, seed=7, std=std)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), ranks=st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_loading_undoes_saving(tmp_path_factory, layout, format, seed, ranks):
    chosen = layout.to_dict()
    chosen["modules"] = [[n, i, o, r] for (n, i, o, _), r in zip(chosen["modules"][::11], ranks * 3, strict=False)]
    lora = LoRA.random(Layout.from_dict(chosen), seed=seed)
    path = lora.save(tmp_path_factory.mktemp("lora") / file_name(format), format)
    for again in (LoRA.load(path), LoRA.load(path, lora.layout)):
        assert again.layout == lora.layout
        assert torch.equal(again.vector, lora.vector)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_costs_its_rounding_only(tmp_path, lora, format, dtype, error):
    path = lora.save(tmp_path / file_name(format), format, dtype)
    again = LoRA.load(path)
    assert delta_W_relative_error(lora.layout, lora.vector[None], again.vector[None]).sqrt().item() < error
    assert not torch.equal(again.vector, lora.vector)


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_diffusers_loads_our_file_as_what_attach_does(tmp_path, pipe, unet, lora, predict, format):
    path = lora.save(tmp_path / file_name(format), format, metadata={"lorasynth.seed": "7"})
    base = predict(pipe.unet)
    pipe.load_lora_weights(path)
    lora.attach(unet)
    # The same; under kohya's names, a module of a smaller rank is filled up with zeros, and sums have another order.
    torch.testing.assert_close(predict(pipe.unet), predict(unet), rtol=0, atol=1e-5 if format == "kohya" else 0)
    assert (predict(unet) - base).abs().max() > 0.05


def test_our_file_and_attach_draw_the_same_picture(tmp_path, pipe, lora):
    def draw():
        seed = torch.Generator().manual_seed(0)
        return pipe("a b c", num_inference_steps=2, height=16, width=16, generator=seed, output_type="pt").images

    base = draw()
    lora.attach(pipe.unet)
    attached = draw()
    LoRA.detach(pipe.unet)
    assert torch.equal(draw(), base)
    pipe.load_lora_weights(lora.save(tmp_path / "x.safetensors"))
    torch.testing.assert_close(draw(), attached, rtol=0, atol=1e-5)  # the same, but for the order of sums
    assert (attached - base).abs().max() > 1e-3


@pytest.mark.slow
def test_peft_loads_our_folder_as_what_attach_does(tmp_path, make_unet, lora, predict):
    folder = lora.save(tmp_path / "adapter", "peft")
    loaded = PeftModel.from_pretrained(make_unet(), folder)
    attached = make_unet()
    lora.attach(attached)
    assert torch.equal(predict(loaded.base_model.model), predict(attached))


@pytest.mark.parametrize("config", [{"lora_alpha": 8}, {"lora_alpha": 3, "use_rslora": True}])
@pytest.mark.parametrize("saver", ["kohya", "diffusers", "peft"])
def test_foreign_file_keeps_its_scale(tmp_path, make_unet, layout, predict, saver, config):
    """An adapter that PEFT trained with alpha != rank, saved by the ecosystem's own code, does here what it did there."""
    names = [m.name for m in layout.modules]
    torch.manual_seed(3)
    model = get_peft_model(make_unet(), LoraConfig(r=2, target_modules=names, init_lora_weights=False, **config))
    path = foreign_file(tmp_path, model, saver)
    attached = make_unet()
    LoRA.load(path, layout).attach(attached)
    torch.testing.assert_close(predict(attached), predict(model.base_model.model), rtol=1e-4, atol=1e-5)


def foreign_file(folder, model, saver):
    state, config = get_peft_model_state_dict(model), model.peft_config["default"]
    state = {k.removeprefix("base_model.model."): v for k, v in state.items()}
    if saver == "peft":
        model.save_pretrained(folder)
        return folder
    if saver == "diffusers":
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=state, unet_lora_adapter_metadata=config.to_dict()
        )
        return folder / "pytorch_lora_weights.safetensors"
    # kohya: diffusers' converter writes alpha = rank; the true one goes in as kohya's trainer would write it.
    alpha = config.lora_alpha * (config.r**0.5 if config.use_rslora else 1)
    tensors = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in state.items()})
    tensors = {k: torch.tensor(float(alpha)) if k.endswith(".alpha") else v.contiguous() for k, v in tensors.items()}
    save_file(tensors, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


def test_patterns_give_modules_their_own_rank_and_alpha(tmp_path, make_unet, predict):
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["to_q", "to_v"], rank_pattern={"to_v": 3}, init_lora_weights=False,
        alpha_pattern={"attn2.to_q": 1, "to_v": 9},
    )  # fmt: skip
    torch.manual_seed(3)
    model = get_peft_model(make_unet(), config)
    model.save_pretrained(tmp_path)
    lora, attached = LoRA.load(tmp_path), make_unet()
    assert {m.rank for m in lora.layout.modules} == {2, 3}
    lora.attach(attached)
    torch.testing.assert_close(predict(attached), predict(model.base_model.model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("style", "down", "up"),
    [("2023", ".lora.down.weight", ".lora.up.weight"), ("2022", "_lora.down.weight", "_lora.up.weight")],
)
def test_diffusers_two_older_styles_are_read(tmp_path, unet, predict, make_unet, style, down, up):
    layout = Layout.from_model(unet, ["to_q", "to_out.0"], rank=2, base="tiny")
    lora = LoRA.random(layout, std=0.3)
    tensors = {}
    for m in layout.modules:
        name = m.name
        if style == "2022":
            head, _, last = m.name.removesuffix(".0").rpartition(".")
            name = f"{head}.processor.{last}"
        tensors[f"unet.{name}{down}"], tensors[f"unet.{name}{up}"] = lora.lora_A(m.name), lora.lora_B(m.name)
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "old.safetensors")
    again = LoRA.load(tmp_path / "old.safetensors", layout)
    assert torch.equal(again.vector, lora.vector)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
    ],
)
def test_kohyas_sdxl_convolutions_are_read(tmp_path, theirs, ours):
    """And are, in their shape, layers of diffusers' model."""
    layer = base_models.sdxl_unet().get_submodule(ours)
    down, up = torch.randn(2, layer.in_channels, *layer.kernel_size), torch.randn(layer.out_channels, 2, 1, 1)
    name = f"lora_unet_{theirs}"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "locon.safetensors")
    lora = LoRA.load(tmp_path / "locon.safetensors")
    assert lora.layout.modules == (Module.of(ours, layer, 2),)
    torch.testing.assert_close(lora.delta_W(ours), 0.5 * up.flatten(1) @ down.flatten(1))


def test_kohyas_sdxl_block_names_are_read(tmp_path):
    """kohya's trainer names SDXL's blocks as the original repository does; the layout is that of diffusers' model."""
    to_k = Layout.preset("sdxl-attn", rank=1)
    names = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        ),
        "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_v": "mid_block.attentions.0.transformer_blocks.9.attn2.to_v",
        "lora_unet_output_blocks_0_1_transformer_blocks_2_attn1_to_q": (
            "up_blocks.0.attentions.0.transformer_blocks.2.attn1.to_q"
        ),
    }
    modules = {m.name: m for m in to_k.modules}
    tensors = {}
    for theirs, ours in names.items():
        m = modules[ours]
        tensors[f"{theirs}.lora_down.weight"] = torch.randn(1, m.in_features)
        tensors[f"{theirs}.lora_up.weight"] = torch.randn(m.out_features, 1)
        tensors[f"{theirs}.alpha"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "sdxl.safetensors")
    lora = LoRA.load(tmp_path / "sdxl.safetensors")
    assert lora.layout.base == "sdxl"
    assert {m.name for m in lora.layout.modules} == set(names.values())
    theirs, ours = next(iter(names.items()))
    formed = 0.5 * tensors[f"{theirs}.lora_up.weight"] @ tensors[f"{theirs}.lora_down.weight"]
    torch.testing.assert_close(lora.delta_W(ours), formed)


def test_kohya_file_has_what_the_other_programs_look_for(tmp_path, layout):
    tensors = load_file(LoRA.random(layout).save(tmp_path / "x.safetensors"))
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert {k.removeprefix(name) for k in tensors if k.startswith(name)} == {
        ".lora_down.weight", ".lora_up.weight", ".alpha",
    }  # fmt: skip
    assert len(tensors) == 3 * len(layout.modules)
    assert {t.item() for k, t in tensors.items() if k.endswith(".alpha")} == {2.0}


def test_kohya_files_of_several_ranks_have_one(tmp_path, mixed_layout):
    """diffusers up to 0.39 takes one module's alpha, or rank, for that of all. Read back, each has its own rank again."""
    lora = LoRA.random(mixed_layout)
    path = lora.save(tmp_path / "x.safetensors")
    tensors = load_file(path)
    ranks = {len(t) for k, t in tensors.items() if k.endswith(".lora_down.weight")}
    assert ranks == {max(m.rank for m in mixed_layout.modules)} != {m.rank for m in mixed_layout.modules}
    assert {float(t) for k, t in tensors.items() if k.endswith(".alpha")} == {float(*ranks)}
    assert sum(k.endswith(".alpha") for k in tensors) == len(mixed_layout.modules)
    again = LoRA.load(path)
    assert again.layout == mixed_layout
    assert torch.equal(again.vector, lora.vector)


def test_new_files_header_says_what_still_holds(tmp_path, layout):
    held = {
        "lorasynth.seed": "3", "ss_sd_model_name": "x", "ss_sd_model_hash": "1", "ss_new_sd_model_hash": "2", "ss_vae_hash": "3",
        "ss_tag_frequency": '{"10_me": {"sks": 10}}', "ss_clip_skip": "2", "modelspec.title": "t", "modelspec.thumbnail": "data:",
        "modelspec.trigger_phrase": "sks", "modelspec.license": "MIT",
    }  # fmt: skip
    gone = {
        "lora_adapter_metadata": "{}", "sshs_model_hash": "0", "sshs_legacy_hash": "0", "modelspec.hash_sha256": "0x0",
        "note": "n", "ss_network_args": '{"conv_dim": "4"}', "ss_base_model_version": "sdxl_base_v1-0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }  # fmt: skip
    old = {"ss_network_module": "lycoris.kohya", "ss_network_dim": "99", "ss_network_alpha": "1"}
    lora = LoRA(layout, LoRA.random(layout).vector, {**held, **gone, **old})
    said = LoRA.load(lora.save(tmp_path / "x.safetensors", metadata={"lorasynth.consent": "self"})).metadata
    assert {key: said.get(key) for key in held} == held
    assert not gone.keys() & said.keys()
    assert [said[key] for key in old] == ["networks.lora", "2", "2"]
    assert (said["lorasynth.base"], said["lorasynth.layout"], said["lorasynth.consent"]) == (
        "tiny",
        layout.hash,
        "self",
    )
    again = LoRA.load(lora.save(tmp_path / "y.safetensors", "diffusers")).metadata
    assert not old.keys() & again.keys()
    assert again["ss_tag_frequency"] == held["ss_tag_frequency"]


def test_what_header_says_of_base_is_kept_until_it_is_denied(tmp_path):
    layout = Layout.from_dict({"base": "", "modules": [["conv_in", 4, 3, 1, 1, 1]]})
    said = {"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    for base, kept in (("", said), ("sd15", said), ("sdxl", {"ss_base_model_version": "sdxl_base_v1-0"})):
        lora = LoRA(replace(layout, base=base), torch.ones(7), said)
        found = lora.header() | to_state_dict(lora, torch.float32)[1]
        assert {key: value for key, value in found.items() if key in said} == kept


def test_alpha_is_float32_whatever_the_weights_are(tmp_path):
    """bfloat16 has no 257, and would make it 256."""
    layout = Layout.from_dict({"base": "sd15", "modules": [["conv_in", 300, 400, 257, 1, 1]]})
    path = LoRA.random(layout).save(tmp_path / "x.safetensors", dtype=torch.bfloat16)
    tensors = load_file(path)
    assert {(key, t.dtype) for key, t in tensors.items() if key.endswith("alpha")} == {
        ("lora_unet_conv_in.alpha", torch.float32)
    }
    assert tensors["lora_unet_conv_in.alpha"].item() == 257
    assert inspect_file(path).alphas == [257]


# Bytes of a file are a promise: equal LoRAs give equal files, on every machine and in every later version.
GOLDEN = {
    ("tiny", "kohya"): "9d8d5c587ab50566944e091c116a2ea59307c3f429d57d590591f6746fd0c7f2",
    ("tiny", "diffusers"): "f65f250d4d0c1b45ec4f29222390ef65552f1eeac5758d09c691c7e9b1875d1c",
    ("tiny", "peft"): "1b807c5cc1ea6a67660237839914c81bcae88f1bcbe8f8b9c995cb9442c00258",
    ("flux", "kohya"): "dd1fca9bfde7fd6b8ea42d4cfa490c3acbc2b1a3967a129ddcc3af1bc48a9a80",
    ("flux", "diffusers"): "e81da2b0925f046a8793e614050a7338905daf695e7f0ea019fd9998cad62f7d",
    ("flux", "peft"): "a91cfae94fe89acc503e91c9882203669724fa18fa8e594d546822fcfff78d1c",
    ("sd3", "diffusers"): "cd7fff102d7bd9b75fb605f6724cffe4cc1325127f84ac37f633a1638739fae5",
    ("sd3", "peft"): "0157f7073a700b85d5895fac90a93e0133845ba02ec0a7637498078fc6fdcf52",
}
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
JOINT = "transformer_blocks.0"
SMALL = {
    "tiny": [[f"{BLOCK}.attn1.to_out.0", 3, 2, 1], [f"{BLOCK}.ff.net.2", 4, 4, 1]],
    "flux": [[f"{JOINT}.attn.add_q_proj", 8, 3, 1], [f"{JOINT}.attn.to_k", 8, 3, 2], [f"{JOINT}.attn.to_out.0", 4, 3, 2],
             [f"{JOINT}.attn.to_q", 8, 3, 2]],
    "sd3": [[f"{JOINT}.attn.to_add_out", 3, 2, 1], [f"{JOINT}.attn.to_v", 4, 4, 1]],
}  # fmt: skip


@pytest.mark.parametrize(("base", "format"), GOLDEN)
def test_files_are_these_bytes(tmp_path, base, format):
    layout = Layout.from_dict({"base": base, "modules": SMALL[base]})
    vector = torch.arange(layout.num_parameters) / 8 - 1
    path = LoRA(layout, vector, {"lorasynth.version": "golden"}).save(tmp_path / file_name(format), format)
    assert torch.equal(LoRA.load(path, layout).vector, vector)
    if format == "peft":
        config = json.loads((path / "adapter_config.json").read_text())
        assert config["lora_alpha"] == config["r"]
        path = path / "adapter_model.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN[base, format]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_not_replaced_unless_forced(tmp_path, layout, format):
    path = tmp_path / file_name(format)
    LoRA.random(layout, seed=1).save(path, format)
    with pytest.raises(OutputExistsError, match="--force"):
        LoRA.random(layout, seed=2).save(path, format)
    assert torch.equal(LoRA.load(path).vector, LoRA.random(layout, seed=1).vector)
    LoRA.random(layout, seed=2).save(path, format, force=True)
    assert torch.equal(LoRA.load(path).vector, LoRA.random(layout, seed=2).vector)


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, layout):
    lora = LoRA.random(layout)
    large = LoRA(layout, lora.vector * 1e7)
    with pytest.raises(UsageError, match=r"down_blocks.*at most 65504 for torch.float16, got .*; save as float32"):
        large.save(tmp_path / "x.safetensors", dtype=torch.float16)
    with pytest.raises(UsageError, match="expected a format among"):
        lora.save(tmp_path / "x.safetensors", "pickle")
    with pytest.raises(UsageError, match="expected dtype float32, float16 or bfloat16"):
        lora.save(tmp_path / "x.safetensors", dtype=torch.int8)
    with pytest.raises(UsageError, match="diffusers' own field"):
        lora.save(tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": "{}"})
    with pytest.raises(UsageError, match="expected a folder for format 'peft'"):
        lora.save(tmp_path / "x.safetensors", "peft")
    with pytest.raises(UsageError, match="does not exist"):
        lora.save(tmp_path / "no" / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_file_of_another_layout_is_refused_with_differences(tmp_path, layout):
    first, *rest = layout.modules
    path = LoRA.random(Layout(base="tiny", modules=tuple(rest))).save(tmp_path / "x.safetensors")
    missing = rf"x\.safetensors: expected the {len(rest) + 1} modules.*got {len(rest)}.*{first.name} is missing"
    with pytest.raises(LayoutError, match=missing):
        LoRA.load(path, layout)
    path = LoRA.random(Layout(base="other", modules=layout.modules)).save(tmp_path / "y.safetensors")
    with pytest.raises(LayoutError, match="base is 'other', expected 'tiny'"):
        LoRA.load(path, layout)
