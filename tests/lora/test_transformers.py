"""LoRAs of FLUX and Stable Diffusion 3: through diffusers' own loaders, and fused layers against plain linear algebra."""

import json

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.layout import Layout, Module
from lorasynth.lora.presets import FEED_FORWARD, JOINT_ATTENTION

from .making import largest_difference, numbers

QKV = "lora_unet_double_blocks_0_img_attn_qkv"


ADD_K, TO_Q = "transformer_blocks.3.attn.add_k_proj", "transformer_blocks.3.attn.to_q"


def build_flux(single_blocks=1):
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=single_blocks, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return model.requires_grad_(False).eval()


def build_sd3():
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        caption_projection_dim=32, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    return model.requires_grad_(False).eval()


@torch.no_grad()
def predict_flux(model):
    g = torch.Generator().manual_seed(1)
    given = {
        "hidden_states": torch.randn(2, 6, 4, generator=g), "encoder_hidden_states": torch.randn(2, 5, 24, generator=g),
        "pooled_projections": torch.randn(2, 8, generator=g), "timestep": torch.tensor([0.2, 0.7]),
        "img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
    return model(**given, return_dict=False)[0]


@torch.no_grad()
def predict_sd3(model):
    g = torch.Generator().manual_seed(1)
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=g), "encoder_hidden_states": torch.randn(2, 5, 24, generator=g),
        "pooled_projections": torch.randn(2, 8, generator=g), "timestep": torch.tensor([200, 700]),
    }  # fmt: skip
    return model(**given, return_dict=False)[0]


def load_into(pipeline, path, model):
    """What ``pipe.load_lora_weights(path)`` does for its transformer."""
    if pipeline is FluxPipeline:
        state, alphas, metadata = pipeline.lora_state_dict(path, return_alphas=True, return_lora_metadata=True)
        pipeline.load_lora_into_transformer(state, alphas, model, metadata=metadata)
    else:
        state, metadata = pipeline.lora_state_dict(path, return_lora_metadata=True)
        pipeline.load_lora_into_transformer(state, model, metadata=metadata)


@pytest.mark.parametrize(
    ("pipeline", "build", "predict", "base", "format"),
    [
        (FluxPipeline, build_flux, predict_flux, "flux", "diffusers"),
        (
            FluxPipeline,
            lambda: build_flux(single_blocks=0),
            predict_flux,
            "flux",
            "kohya",
        ),  # linear1 is of FLUX's width only
        (StableDiffusion3Pipeline, build_sd3, predict_sd3, "sd3", "diffusers"),
    ],
    ids=["flux-diffusers", "flux-kohya", "sd3-diffusers"],
)
def test_diffusers_loads_our_file_as_what_attach_does(tmp_path, pipeline, build, predict, base, format):
    layout = Layout.from_model(build(), JOINT_ATTENTION + FEED_FORWARD, rank=3, base=base)
    lora = LoRA.random(layout, seed=5, std=0.3)
    loaded, attached = build(), build()
    load_into(pipeline, lora.save(tmp_path / "x.safetensors", format), loaded)
    lora.attach(attached)
    torch.testing.assert_close(predict(loaded), predict(attached), rtol=1e-5, atol=1e-6)
    assert (predict(attached) - predict(build())).abs().max() > 0.01


@pytest.mark.parametrize("preset", ["sd3", "flux", "flux-full"])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("format", ["kohya", "diffusers", "peft"])
def test_each_format_gives_back_lora_of_real_model_bit_for_bit(tmp_path, preset, rank, format):
    lora = LoRA.random(Layout.preset(preset, rank), seed=rank)
    if (preset, format) == ("sd3", "kohya"):
        with pytest.raises(UsageError, match="expected format 'diffusers' or 'peft' for 'sd3', got 'kohya'"):
            lora.save(tmp_path / "x.safetensors", format)
        assert list(tmp_path.iterdir()) == []
        return
    path = lora.save(tmp_path / ("x" if format == "peft" else "x.safetensors"), format)
    again = LoRA.load(path)
    assert again.layout == lora.layout
    assert torch.equal(again.vector, lora.vector)
    assert inspect_file(path).faults == []


@pytest.mark.slow
def test_written_fused_layer_does_what_its_parts_do(tmp_path):
    layout = Layout.preset("flux", rank=2)
    lora = LoRA.random(layout, seed=3)
    tensors = load_file(lora.save(tmp_path / "x.safetensors"))

    def update(name):
        scaling = tensors[f"{name}.alpha"] / len(tensors[f"{name}.lora_down.weight"])
        return scaling * tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]

    block = "transformer_blocks.18.attn"
    parts = [lora.delta_W(f"{block}.to_{part}") for part in "qkv"]
    torch.testing.assert_close(update("lora_unet_double_blocks_18_img_attn_qkv"), torch.cat(parts))
    torch.testing.assert_close(update("lora_unet_double_blocks_18_img_attn_proj"), lora.delta_W(f"{block}.to_out.0"))
    parts = [lora.delta_W(f"single_{block.replace('18', '37')}.to_{part}") for part in "qkv"]
    fused = update("lora_unet_single_blocks_37_linear1")
    assert fused.shape == (3 * 3072 + 12288, 3072)
    torch.testing.assert_close(fused[: 3 * 3072], torch.cat(parts))
    assert not fused[3 * 3072 :].any()  # the feed-forward, which this layout leaves alone


def test_layer_trained_fused_is_written_at_its_rank(tmp_path):
    """Its parts share lora_A: nothing grows by a conversion."""
    tensors = {}
    for name, rows in ((QKV, 9216), ("lora_unet_single_blocks_0_linear1", 21504)):
        tensors |= {f"{name}.lora_down.weight": numbers(4, 3072), f"{name}.lora_up.weight": numbers(rows, 4)}
        tensors[f"{name}.alpha"] = torch.tensor(8.0)
    save_file(tensors, tmp_path / "kohya.safetensors")
    lora = LoRA.load(tmp_path / "kohya.safetensors")
    written = load_file(lora.save(tmp_path / "again.safetensors"))
    assert {key: t.shape for key, t in written.items()} == {key: t.shape for key, t in tensors.items()}
    for name in (QKV, "lora_unet_single_blocks_0_linear1"):
        assert torch.equal(written[f"{name}.lora_down.weight"], tensors[f"{name}.lora_down.weight"])
        assert torch.equal(written[f"{name}.lora_up.weight"], 2 * tensors[f"{name}.lora_up.weight"])
    assert torch.equal(LoRA.load(tmp_path / "again.safetensors", lora.layout).vector, lora.vector)


@pytest.mark.slow
def test_scale_in_an_xlabs_header_is_obeyed(tmp_path):
    """As by diffusers, which hands it on to PEFT."""
    name = "double_blocks.0.processor"
    tensors = {
        f"{name}.{part}_lora{side}.{half}.weight": numbers(*shape)
        for part, rows in (("qkv", 9216), ("proj", 3072)) for side in (1, 2)
        for half, shape in (("down", (2, 3072)), ("up", (rows, 2)))
    }  # fmt: skip
    config = {"r": 2, "lora_alpha": 8, "alpha_pattern": {r".*add_[kqv]_proj": 2}}
    save_file(tensors, tmp_path / "plain.safetensors")
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in config.items()})}
    save_file(tensors, tmp_path / "scaled.safetensors", header)
    plain, scaled = (LoRA.load(tmp_path / f"{n}.safetensors") for n in ("plain", "scaled"))
    for m in plain.layout.modules:
        times = 1 if ".add_" in m.name else 4
        torch.testing.assert_close(scaled.delta_W(m.name), times * plain.delta_W(m.name))


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        (QKV, "lora_down", "lora_up"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", "lora_down", "lora_up"),  # ComfyUI
        ("double_blocks.0.processor.qkv_lora1", "down", "up"),  # XLabs
    ],
    ids=["kohya", "comfyui", "xlabs"],
)
@pytest.mark.parametrize("rank", [2, 3])  # 3 could be one of each part, by its size
def test_trained_fused_layer_is_three_layers(tmp_path, name, down, up, rank):
    A, B, alpha = numbers(rank, 3072), numbers(3 * 3072, rank, seed=1), 0.5
    tensors = {f"{name}.{down}.weight": A, f"{name}.{up}.weight": B}
    if down == "down":
        alpha = rank
    else:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "x.safetensors")
    lora = LoRA.load(tmp_path / "x.safetensors")
    assert {m.rank for m in lora.layout.modules} == {rank}
    parts = [lora.delta_W(f"transformer_blocks.0.attn.to_{part}") for part in "qkv"]
    assert largest_difference(torch.cat(parts), alpha / rank * B @ A) < 1e-5


@pytest.mark.parametrize("base", ["flux", "chroma"])
def test_layers_beside_flux_blocks_are_read(tmp_path, base):
    """Those of FLUX alone say which base it is; where it fits two, the header does."""
    names = {"lora_unet_img_in": ("x_embedder", 64, 3072), "lora_unet_final_layer_linear": ("proj_out", 3072, 64)}
    if base == "flux":
        names["lora_unet_guidance_in_in_layer"] = ("time_text_embed.guidance_embedder.linear_1", 256, 3072)
    tensors = {QKV + k: t for k, t in ((".lora_down.weight", numbers(1, 3072)), (".lora_up.weight", numbers(9216, 1)))}
    for name, (_, i, o) in names.items():
        tensors |= {f"{name}.lora_down.weight": numbers(2, i), f"{name}.lora_up.weight": numbers(o, 2, seed=1)}
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": base} if base == "chroma" else None)
    lora = LoRA.load(tmp_path / "x.safetensors")
    assert lora.layout.base == base
    for name, (module, _, _) in names.items():
        down, up = (tensors[f"{name}.lora_{half}.weight"] for half in ("down", "up"))
        torch.testing.assert_close(lora.delta_W(module), 2 * up @ down)


def test_last_norm_of_flux_swaps_its_halves(tmp_path):
    """diffusers' norm_out has scale before shift, the original code shift before scale."""
    name, A, B = "lora_unet_final_layer_adaLN_modulation_1", numbers(1, 3072), numbers(6144, 1)
    tensors = {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B}
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": "flux1"})
    lora = LoRA.load(tmp_path / "x.safetensors")
    assert largest_difference(lora.delta_W("norm_out.linear"), torch.cat([B[3072:], B[:3072]]) @ A) < 1e-5


@pytest.mark.parametrize(
    ("module", "width", "base"),
    [
        ("single_transformer_blocks.7.attn.to_q", 3072, ""),  # of FLUX, Chroma and HunyuanVideo
        ("transformer_blocks.7.norm1.linear", 3072, ""),  # of FLUX and HunyuanVideo
        ("transformer_blocks.7.attn.to_out.0", 8, ""),
        ("transformer_blocks.7.attn.to_v", 1536, "sd3"),
        ("transformer_blocks.59.attn.add_k_proj", 3072, "qwen-image"),
    ],
)
def test_onetrainers_names_are_read(tmp_path, module, width, base):
    name = f"lora_transformer_{module.replace('.', '_')}"
    A, B = numbers(2, width), numbers(6 * width if "norm" in module else width, 2)
    save_file(
        {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B, f"{name}.alpha": torch.tensor(1.0)},
        tmp_path / "x.safetensors",
    )
    lora = LoRA.load(tmp_path / "x.safetensors")
    assert lora.layout.base == base
    assert largest_difference(lora.delta_W(module), 0.5 * B @ A) < 1e-5


def test_alphas_beside_diffusers_names_are_folded_as_there(tmp_path):
    layout = Layout.from_model(build_flux(), ("attn.to_q", "attn.to_v"), rank=2, base="flux")
    lora, name = LoRA.random(layout, seed=5, std=0.3), "transformer.transformer_blocks.1.attn.to_q"
    tensors = load_file(lora.save(tmp_path / "plain.safetensors", "diffusers"))
    modules = [m.name for m in layout.modules]
    tensors |= {f"transformer.{m}.alpha": torch.tensor(6.0) for m in modules}
    save_file(tensors, tmp_path / "alphas.safetensors")
    again = LoRA.load(tmp_path / "alphas.safetensors", layout)
    torch.testing.assert_close(
        again.delta_W(name.removeprefix("transformer.")), 3 * lora.delta_W(name.removeprefix("transformer."))
    )
    loaded, attached = build_flux(), build_flux()
    load_into(FluxPipeline, tmp_path / "alphas.safetensors", loaded)
    again.attach(attached)
    torch.testing.assert_close(predict_flux(loaded), predict_flux(attached), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("widths", "header", "base", "codes"),
    [
        ({ADD_K: 1536}, {}, "sd3", []),
        ({ADD_K: 2432}, {}, "sd3", []),
        ({ADD_K: 64}, {}, "", ["base-unknown"]),
        ({ADD_K: 3072}, {}, "", ["base-ambiguous"]),
        ({ADD_K: 3072}, {"modelspec.architecture": "flux-1-dev/lora"}, "flux", []),
        ({ADD_K: 3072}, {"modelspec.architecture": "Qwen-Image"}, "qwen-image", []),
        ({ADD_K: 3072}, {"modelspec.architecture": "hidream-i1/lora"}, "", ["base-unknown"]),
        ({ADD_K: 3072}, {"lorasynth.base": "my-tune"}, "my-tune", []),
        ({ADD_K: 3072, TO_Q.replace("3", "19"): 3072}, {"ss_base_model_version": "flux1"}, "flux", ["base"]),
        ({TO_Q: 3072}, {"ss_base_model_version": "flux1", "modelspec.architecture": "chroma"}, "flux", ["base"]),
        ({TO_Q: 3072}, {"ss_base_model_version": "sd_v1"}, "sd15", ["base"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "prefix", ["transformer.", "base_model.model.", "diffusion_model.", "base_model.model.transformer."]
)
def test_base_is_one_that_has_every_module(tmp_path, widths, header, base, codes, prefix):
    """And a header that denies what the tables say is an error (code "base"), or said."""
    folder = tmp_path / "x"
    folder.mkdir()
    tensors = {
        f"{prefix}{name}.lora_{half}.weight": numbers(*shape)
        for name, width in widths.items() for half, shape in (("A", (1, width)), ("B", (width, 1)))
    }  # fmt: skip
    save_file(tensors, folder / "adapter_model.safetensors", header)
    (folder / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 1}')
    seen = inspect_file(folder)
    assert (seen.base, [fault.code for fault in seen.faults], seen.ok) == (base, codes, codes != ["base"])
    if seen.ok:
        assert set(seen.modules) == set(widths)


def module(name, out_features=6, rank=2):
    return Module(name=name, in_features=8, out_features=out_features, rank=rank)


@pytest.mark.parametrize(
    ("base", "modules", "said"),
    [
        ("flux", [module("x_embedder")], "x_embedder: expected layers of FLUX's blocks"),
        (
            "flux",
            [module("transformer_blocks.19.attn.to_q")],
            r"transformer_blocks\.19\.attn\.to_q: expected layers of FLUX",
        ),
        (
            "flux",
            [module("single_transformer_blocks.0.attn.to_q")],
            "linear1: expected parts of one rank in FLUX's shapes",
        ),
        (
            "flux",
            [module("transformer_blocks.0.attn.to_q"), module("transformer_blocks.0.attn.to_v", rank=3)],
            "img_attn_qkv: expected parts of one rank",
        ),
        (
            "flux",
            [module("transformer_blocks.0.attn.to_q"), module("transformer_blocks.0.attn.to_v", out_features=7)],
            "img_attn_qkv: expected parts of one rank",
        ),
        ("flux", [module("transformer_blocks.0.attn.to_q", rank=3)], "img_attn_qkv: expected parts of one rank"),
        ("", [module("transformer_blocks.0.attn.to_q")], "expected format 'diffusers' or 'peft' for ''"),
        ("mine", [module("transformer_blocks.0.attn.to_q")], "expected format 'diffusers' or 'peft' for 'mine'"),
    ],
    ids=[
        "beside-the-blocks",
        "no-such-block",
        "another-width",
        "ranks-differ",
        "rows-differ",
        "rank-too-high",
        "base-unknown",
        "base-without-table",
    ],
)
def test_kohya_refuses_what_its_names_cannot_say(tmp_path, base, modules, said):
    lora = LoRA.random(Layout(base=base, modules=tuple(modules)))
    with pytest.raises(UsageError, match=said):
        lora.save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    for format in ("diffusers", "peft"):  # a stand-in that calls itself FLUX is read by whoever says so
        path = lora.save(tmp_path / ("x" if format == "peft" else "x.safetensors"), format)
        assert torch.equal(LoRA.load(path, lora.layout).vector, lora.vector)


def test_flux_lora_is_refused_where_a_unet_is_expected(tmp_path):  # row 50
    layout = Layout(base="sd15", modules=(module("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),))
    tensors = {f"{QKV}.lora_down.weight": numbers(1, 3072), f"{QKV}.lora_up.weight": numbers(9216, 1)}
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": "flux1"})
    with pytest.raises(LayoutError, match="expected the 1 modules of layout 'sd15', got 3 of another, perhaps flux"):
        LoRA.load(tmp_path / "x.safetensors", layout)


JOINT, REFINER = "joint_blocks.3.x_block.attn.qkv", "txt_in.individual_token_refiner.blocks.1.self_attn_qkv"


@pytest.mark.parametrize(
    ("base", "name", "shape", "modules"),
    [
        ("sd3", JOINT, (1536, 4608), [f"transformer_blocks.3.attn.{part}" for part in ("to_k", "to_q", "to_v")]),
        ("sd3", "joint_blocks.0.context_block.mlp.fc1", (1536, 6144), ["transformer_blocks.0.ff_context.net.0.proj"]),
        ("sd3", "joint_blocks.37.x_block.mlp.fc2", (9728, 2432), ["transformer_blocks.37.ff.net.2"]),
        ("hunyuan-video", REFINER, (3072, 9216),
         [f"context_embedder.token_refiner.refiner_blocks.1.attn.{part}" for part in ("to_k", "to_q", "to_v")]),
        ("chroma", "distilled_guidance_layer.layers.4.in_layer", (5120, 5120),
         ["distilled_guidance_layer.layers.4.linear_1"]),
        ("z-image", "final_layer.linear", (3840, 64), ["all_final_layer.2-1.linear"]),
        ("z-image", "x_embedder", (64, 3840), ["all_x_embedder.2-1"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", ["kohya", "comfyui"])
def test_original_names_are_those_of_the_checkpoint(tmp_path, base, name, shape, modules, style):
    """diffusers' converters of LoRAs know none of them; those of whole checkpoints do, in these rows."""
    inputs, out = shape
    key = f"lora_unet_{name.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{name}"
    down, up = ("lora_down", "lora_up") if style == "kohya" else ("lora_A", "lora_B")
    A, B = numbers(2, inputs), numbers(out, 2)
    save_file({f"{key}.{down}.weight": A, f"{key}.{up}.weight": B}, tmp_path / "x.safetensors")
    lora = LoRA.load(tmp_path / "x.safetensors", base=base)
    assert (lora.layout.base, [m.name for m in lora.layout.modules]) == (base, modules)
    fused = torch.cat([lora.delta_W(module) for module in sorted(modules, key=lambda m: "qkv".find(m[-1]))])
    assert largest_difference(fused, B @ A) < 1e-5
