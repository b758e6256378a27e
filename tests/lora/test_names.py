"""The grammar of names: every style that programs write, for every module of the presets' models, and names that are nobody's."""

from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasynth.errors import LoRAFileError, UsageError
from lorasynth.lora import bases, names
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import inspect_file
from lorasynth.lora.layout import Layout, Module
from lorasynth.lora.presets import PRESETS

from .making import KOHYA_Q, K, Q, numbers, pair_of

MODELS = sorted({Layout.preset(name).base for name in PRESETS})
HALVES = {
    "lora_A": (".lora_A.weight", ".lora_B.weight"),
    "adapter": (".lora_A.default_0.weight", ".lora_B.default_0.weight"),
    "lora_down": (".lora_down.weight", ".lora_up.weight"),
    "lora.down": (".lora.down.weight", ".lora.up.weight"),
    "linear_layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}
DOTTED = [
    "", "unet.", "transformer.", "diffusion_model.", "model.diffusion_model.", "base_model.model.", "base_model.model.unet.",
    "base_model.model.transformer.", "transformer.base_model.model.", "unet.unet.", "module.transformer.", "pipe.dit.",
    "_orig_mod.",
]  # fmt: skip
FLAT = ["lora_unet_", "lora_transformer_", "lycoris_"]


def rank_1(tensors_of, modules):
    """The tensors of a rank-1 LoRA of the modules, whose numbers are expanded and take no memory."""
    return {key: t for name, shape in modules.items() for key, t in zip(tensors_of(name), factors(shape), strict=True)}


@cache
def factors(shape):
    width, out, kernel = shape
    size = (width,) if kernel is None else (width // (kernel[0] * kernel[1]), *kernel)
    one = () if kernel is None else (1, 1)
    return torch.zeros(1).half().expand(1, *size), torch.zeros(1).half().expand(out, 1, *one)


def seen_of(tensors):
    """Base, and module -> shape, as the gate's names and tables give them; without values, which take memory."""
    from lorasynth.lora.checks import Halves
    from lorasynth.lora.identity import identify

    halves = {}
    for key, tensor in tensors.items():
        name = names.parse(key)
        assert name is not None, key
        halves.setdefault(name.raw, Halves(spellings=name.spellings)).add(name, key, tensor.numpy())
    identity = identify({raw: half.layer for raw, half in halves.items()}, {}, None)
    return identity.base, [module for parts in identity.parts.values() for module, _ in parts], identity.faults


def styles():
    """Base, prefix and halves: with each base two pairs of halves a prefix, so that all bases together have every style."""
    for b, base in enumerate(MODELS):
        for p, prefix in enumerate(DOTTED + FLAT):
            for shift in (0, 2):
                yield base, prefix, list(HALVES)[(p + b + shift) % len(HALVES)]


def test_styles_are_every_prefix_with_every_pair_of_halves():
    assert {style[1:] for style in styles()} == {(prefix, halves) for prefix in DOTTED + FLAT for halves in HALVES}


@pytest.mark.parametrize(("base", "prefix", "halves"), list(styles()))
def test_every_module_is_read_in_every_style(base, prefix, halves):
    """282 modules of Stable Diffusion 1.5, 794 of SDXL …: each alone means itself, and all together name the base."""
    (model, *_) = bases.of(base)

    def keys(name):
        spelled = name.replace(".", "_") if prefix in FLAT else name
        return [f"{prefix}{spelled}{half}" for half in HALVES[halves]]

    assert seen_of(rank_1(keys, model.modules)) == (base, list(model.modules), [])
    for name in model.modules:
        (half, _) = keys(name)
        parsed = names.parse(half)
        assert next(model.spelled[s] for s in parsed.spellings if s in model.spelled)[0][0] == name


@pytest.mark.parametrize("variant", bases.variants(), ids=lambda variant: variant.name)
@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model.", ""])
def test_every_name_of_the_original_code_is_read(variant, prefix):
    """And goes back: the rows of its parts are those of the layer, none twice."""
    for layer, parts in variant.layers.items():
        spelled = layer.replace(".", "_") if prefix == "lora_unet_" else layer
        name = names.parse(f"{prefix}{spelled}.lora_down.weight")
        assert next(variant.spelled[s] for s in name.spellings if s in variant.spelled) == parts


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
@pytest.mark.parametrize("base", MODELS)
def test_every_module_that_is_written_is_read_as_itself(tmp_path, base, format):
    """The whole of a UNet, with convolutions and embeddings; of FLUX what its blocks have; of SD 3 diffusers' names alone."""
    (model, *_) = bases.of(base)
    modules = {
        name: shape
        for name, shape in model.modules.items()
        if base != "flux" or format != "kohya" or "transformer_blocks." in name
    }
    layout = Layout(
        base=base,
        modules=tuple(
            Module(name=n, in_features=i, out_features=o, rank=1, kernel=k) for n, (i, o, k) in modules.items()
        ),
    )
    lora = LoRA.random(layout, seed=1)
    if (base, format) == ("sd3", "kohya"):
        with pytest.raises(UsageError, match="'diffusers' or 'peft' for 'sd3', got 'kohya'"):
            lora.save(tmp_path / "x.safetensors", format)
        return
    again = LoRA.load(lora.save(tmp_path / "x.safetensors", format))
    assert again.layout == layout
    assert torch.equal(again.vector, lora.vector)


@pytest.mark.parametrize(
    ("tensors", "modules"),
    [
        ({**pair_of(f"{KOHYA_Q}_", 320, 320)}, [f"{KOHYA_Q}_".removeprefix("lora_unet_")]),
        (
            {**pair_of(KOHYA_Q.replace("to_q", "to_out"), 320, 320)},
            [KOHYA_Q.replace("to_q", "to_out").removeprefix("lora_unet_")],
        ),
        ({**pair_of("lora_unet_towers_0_self_attn_q", 7, 7)}, ["towers_0_self_attn_q"]),
        ({**pair_of("lora_unet_joint_blocks_0_x_block_attn_proj", 8, 8)}, ["joint_blocks_0_x_block_attn_proj"]),
        ({**pair_of("lora_unet_double_blocks_19_img_attn_proj", 8, 8)}, ["double_blocks_19_img_attn_proj"]),
        # Lumina's: Z-Image has a qkv of three equal parts under this name, this one has other rows
        ({**pair_of("diffusion_model.layers.0.attention.qkv", 2304, 3840)}, ["layers.0.attention.qkv"]),
        ({**pair_of("diffusion_model.layers.0.attention.out", 2304, 2304)}, ["layers.0.attention.out"]),
        ({**pair_of("diffusion_model.some.layer", 8, 8)}, ["some.layer"]),
        ({**pair_of("transformer.double_blocks.0.img_attn.qkv", 8, 8)}, ["double_blocks.0.img_attn.qkv"]),
        ({**pair_of("base_model.model.transformer.h.0.attn", 8, 8)}, ["transformer.h.0.attn"]),
    ],
)
@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_modules_of_no_known_base_keep_the_file_s_names(tmp_path, tensors, modules, format):
    save_file(tensors, tmp_path / "x.safetensors")
    seen = inspect_file(tmp_path / "x.safetensors")
    assert (seen.ok, seen.base) == (True, "")
    assert "base-unknown" in [fault.code for fault in seen.faults]
    assert (seen.modules, seen.is_named) == (modules, False)
    with pytest.raises(UsageError, match=r"expected modules of a known base .* --force-base"):
        LoRA.load(tmp_path / "x.safetensors").save(tmp_path / "y.safetensors", format)
    assert not (tmp_path / "y.safetensors").exists()


def test_one_file_may_have_several_styles(tmp_path):
    """As diffusers' own LCM script writes them, or a merge: modules, not styles, are what must not clash."""
    tensors = pair_of(KOHYA_Q, 320, 320) | {
        f"unet.{K}.lora.down.weight": numbers(2, 768), f"unet.{K}.lora.up.weight": numbers(320, 2),
        "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": numbers(2, 320, 3, 3),
        "unet.down_blocks.0.resnets.0.conv1.lora_B.weight": numbers(320, 2, 1, 1),
        "lora_unet_time_embed_0.lora_down.weight": numbers(2, 320), "lora_unet_time_embed_0.lora_up.weight": numbers(1280, 2),
        "lora_unet_out_2.lora_down.weight": numbers(2, 320, 3, 3), "lora_unet_out_2.lora_up.weight": numbers(4, 2, 1, 1),
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    seen = inspect_file(tmp_path / "x.safetensors")
    assert (seen.format, seen.base, seen.faults) == ("mixed", "sd15", [])
    assert set(seen.modules) == {Q, K, "down_blocks.0.resnets.0.conv1", "time_embedding.linear_1", "conv_out"}


def test_sdxl_parts_beside_its_blocks_are_read(tmp_path):
    layers = {
        "time_embed_0": (320, 1280, "time_embedding.linear_1"), "time_embed_2": (1280, 1280, "time_embedding.linear_2"),
        "label_emb_0_0": (2816, 1280, "add_embedding.linear_1"), "label_emb_0_2": (1280, 1280, "add_embedding.linear_2"),
        "input_blocks_4_1_transformer_blocks_0_attn2_to_k": (2048, 640, K.replace(".0.", ".1.", 1)),
    }  # fmt: skip
    tensors = {k: t for name, (i, o, _) in layers.items() for k, t in pair_of(f"lora_unet_{name}", i, o).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    seen = inspect_file(tmp_path / "x.safetensors")
    assert (seen.base, set(seen.modules), seen.faults) == ("sdxl", {module for *_, module in layers.values()}, [])


def test_matrix_for_a_1x1_convolution_is_the_same_update(tmp_path):
    name, module = "lora_unet_down_blocks_0_attentions_0_proj_in", "down_blocks.0.attentions.0.proj_in"
    tensors = pair_of(name, 320, 320) | pair_of(
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, 320
    )
    save_file(tensors, tmp_path / "x.safetensors")
    lora = LoRA.load(tmp_path / "x.safetensors")
    assert (lora.layout.base, lora.layout.shapes[module]) == ("sd15", (320, 320, (1, 1)))
    torch.testing.assert_close(
        lora.delta_W(module), tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    )


@pytest.mark.parametrize(
    "key", ["bundle_emb.sks.clip_l", "bundle_emb.my token.clip_g", "string_to_param.*", "emb_params"]
)
def test_embedding_is_a_text_encoder_s_part(tmp_path, key):
    save_file(pair_of(KOHYA_Q, 320, 320) | {key: numbers(2, 768)}, tmp_path / "x.safetensors")
    with pytest.raises(LoRAFileError, match=r"an embedding \(textual inversion\).*--unet-only"):
        LoRA.load(tmp_path / "x.safetensors")
    assert inspect_file(tmp_path / "x.safetensors", unet_only=True).modules == [Q]


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_pefts_names_in_a_single_file_are_read_at_scale_1(tmp_path, alpha):
    """As other programs do; that nothing says the scale is said. An alpha beside them counts."""
    name = f"base_model.model.{Q}"
    tensors = {f"{name}.lora_A.weight": numbers(2, 320), f"{name}.lora_B.weight": numbers(320, 2)}
    save_file(tensors | ({f"{name}.alpha": torch.tensor(alpha)} if alpha else {}), tmp_path / "x.safetensors")
    lora, seen = LoRA.load(tmp_path / "x.safetensors"), inspect_file(tmp_path / "x.safetensors")
    assert ("no-config" in [fault.code for fault in seen.faults]) == (alpha is None)
    scale = alpha / 2 if alpha else 1
    torch.testing.assert_close(
        lora.delta_W(Q), scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    )


def test_layer_that_was_trained_fused_stays_of_its_rank(tmp_path):
    tensors = pair_of("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216, rank=6) | pair_of(
        "lora_unet_single_blocks_0_linear1", 3072, 21504, rank=6
    )
    save_file(tensors, tmp_path / "x.safetensors")
    again = load_file(LoRA.load(tmp_path / "x.safetensors").save(tmp_path / "y.safetensors"))
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())
