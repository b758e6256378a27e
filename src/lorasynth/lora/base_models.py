"""The tables of `bases`, made from the libraries: modules from diffusers' own models, other programs' names by its converters.

Each model is built from its published configuration on PyTorch's meta device: no weights, no download. `python -m
lorasynth.lora.base_models` writes the tables anew. Only this module imports diffusers, so that reading a LoRA does not.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lorasynth.lora.bases import PATH, Parts, Shape
from lorasynth.lora.layout import Module, natural_order

_ROWS = 7 * 3072  # rows of a layer that is asked for: a third, a half and FLUX's seventh are whole numbers


@cache
def unet(**config: Any) -> Any:
    """A UNet2DConditionModel on the meta device."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@cache
def transformer(name: str, **config: Any) -> Any:
    """The transformer of that class name in diffusers, on the meta device."""
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, name)(**config)


def sd15_unet() -> Any:
    """Stable Diffusion 1.5's UNet: 859,520,964 parameters, diffusers' defaults but for the text width."""
    return unet(sample_size=64, cross_attention_dim=768)


def sd2_unet() -> Any:
    """Stable Diffusion 2's UNet: 865,910,724 parameters."""
    return unet(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )


def sdxl_unet() -> Any:
    """Stable Diffusion XL's UNet: 2,567,463,684 parameters."""
    return unet(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sdxl_refiner_unet() -> Any:
    """The UNet of Stable Diffusion XL's refiner."""
    return unet(
        sample_size=128, cross_attention_dim=1280, block_out_channels=(384, 768, 1536, 1536), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=4, attention_head_dim=(6, 12, 24, 24), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2560,
    )  # fmt: skip


def sd3_transformer() -> Any:
    """Stable Diffusion 3 medium's transformer: 2,028,328,000 parameters."""
    return transformer(
        "SD3Transformer2DModel", sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
        pos_embed_max_size=192,
    )  # fmt: skip


def flux_transformer() -> Any:
    """FLUX.1-dev's transformer: 11,901,408,320 parameters, diffusers' defaults, with guidance as an input."""
    return transformer("FluxTransformer2DModel", guidance_embeds=True)


def _sd35(**config: Any) -> Any:
    return transformer("SD3Transformer2DModel", sample_size=128, qk_norm="rms_norm", **config)


def _wan(**config: Any) -> Any:
    return transformer("WanTransformer3DModel", **config)


def _pixart(**config: Any) -> Any:
    return transformer("PixArtTransformer2DModel", caption_channels=4096, **config)


def _flux2(**config: Any) -> Any:
    return transformer("Flux2Transformer2DModel", **config)


MODELS: dict[str, dict[str, Callable[[], Any]]] = {
    "sd15": {"sd15": sd15_unet},
    "sd2": {"sd2": sd2_unet},
    "sdxl": {"sdxl": sdxl_unet},
    "sdxl-refiner": {"sdxl-refiner": sdxl_refiner_unet},
    "sd3": {
        "sd3-medium": sd3_transformer,
        "sd3.5-medium": lambda: _sd35(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
        ),
        "sd3.5-large": lambda: _sd35(
            num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192
        ),
    },
    "flux": {"flux.1-dev": flux_transformer},
    "flux2": {
        "flux.2-dev": lambda: _flux2(),
        "flux.2-klein-4b": lambda: _flux2(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ),
        "flux.2-klein-9b": lambda: _flux2(
            num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, guidance_embeds=False
        ),
    },
    "chroma": {"chroma1": lambda: transformer("ChromaTransformer2DModel")},
    "qwen-image": {"qwen-image": lambda: transformer("QwenImageTransformer2DModel")},
    "z-image": {"z-image": lambda: transformer("ZImageTransformer2DModel")},
    "hunyuan-video": {"hunyuan-video": lambda: transformer("HunyuanVideoTransformer3DModel")},
    "wan": {
        "wan2.1-t2v-1.3b": lambda: _wan(num_attention_heads=12, ffn_dim=8960, num_layers=30),
        "wan2.1-t2v-14b": lambda: _wan(),
        "wan2.1-i2v-14b": lambda: _wan(in_channels=36, image_dim=1280, added_kv_proj_dim=5120),
        "wan2.2-i2v-14b": lambda: _wan(in_channels=36),
        "wan2.2-ti2v-5b": lambda: _wan(
            num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48
        ),
    },
    "auraflow": {"auraflow": lambda: transformer("AuraFlowTransformer2DModel")},
    "pixart": {
        "pixart-alpha": lambda: _pixart(use_additional_conditions=True),
        "pixart-sigma": lambda: _pixart(use_additional_conditions=False),
    },
}  # fmt: skip
"""Base -> its variants -> function that builds the model."""

_LOADERS = {
    "flux": "FluxLoraLoaderMixin", "chroma": "FluxLoraLoaderMixin", "flux2": "Flux2LoraLoaderMixin",
    "sd3": "SD3LoraLoaderMixin", "qwen-image": "QwenImageLoraLoaderMixin", "z-image": "ZImageLoraLoaderMixin",
    "hunyuan-video": "HunyuanVideoLoraLoaderMixin", "wan": "WanLoraLoaderMixin", "auraflow": "AuraFlowLoraLoaderMixin",
}  # fmt: skip
"""Base -> diffusers' reader of its LoRAs; PixArt has none, UNets have StableDiffusionLoraLoaderMixin."""

_FLUX = [
    *(f"double_blocks.#.{side}_{layer}" for side in ("img", "txt")
      for layer in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")),
    "single_blocks.#.linear1", "single_blocks.#.linear2", "single_blocks.#.modulation.lin", "img_in", "txt_in",
    *(f"{name}_in.{layer}_layer" for name in ("time", "vector", "guidance") for layer in ("in", "out")),
    "final_layer.linear", "final_layer.adaLN_modulation.1", "single_stream_modulation.lin",
    "double_stream_modulation_img.lin", "double_stream_modulation_txt.lin",
]  # fmt: skip
_WAN = [
    *(f"blocks.#.{kind}_attn.{part}" for kind in ("self", "cross") for part in ("q", "k", "v", "o", "k_img", "v_img")),
    "blocks.#.ffn.0", "blocks.#.ffn.2", "time_projection.1", "head.head", "img_emb.proj.1", "img_emb.proj.3",
    *(f"{name}_embedding.{i}" for name in ("text", "time") for i in (0, 2)),
]  # fmt: skip
_HUNYUAN = [
    *(f"double_blocks.#.{side}_{layer}" for side in ("img", "txt")
      for layer in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2", "mod.linear")),
    "single_blocks.#.linear1", "single_blocks.#.linear2", "single_blocks.#.modulation.linear", "final_layer.linear",
    "final_layer.adaLN_modulation.1", "img_in.proj", "txt_in.input_embedder",
    *(f"txt_in.{name}_embedder.{layer}" for name in ("t", "c") for layer in ("mlp.0", "mlp.2", "linear_1", "linear_2")),
    *(f"txt_in.individual_token_refiner.blocks.#.{layer}"
      for layer in ("self_attn_qkv", "self_attn_proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")),
    *(f"{name}_in.mlp.{i}" for name in ("time", "guidance") for i in (0, 2)), "vector_in.in_layer", "vector_in.out_layer",
]  # fmt: skip
_XLABS = [
    *(f"double_blocks.#.processor.{part}_lora{i}" for part in ("qkv", "proj") for i in (1, 2)),
    "single_blocks.#.processor.qkv_lora", "single_blocks.#.processor.proj_lora",
]  # fmt: skip
_Z_IMAGE = [
    f"{block}.#.attention.{layer}"
    for block in ("layers", "noise_refiner", "context_refiner")
    for layer in ("qkv", "out")
]
# Names to ask diffusers' converters about, with how its reader wants them spelled. What it does not know is left out.
_KOHYA, _COMFY = ("lora_unet_", "_", "lora_down", "lora_up"), ("diffusion_model.", ".", "lora_A", "lora_B")
_ASKED = {
    "flux": [(_FLUX, _KOHYA), (_XLABS, ("", ".", "down", "up"))], "chroma": [(_FLUX, _KOHYA)],
    "flux2": [(_FLUX, _KOHYA), (_FLUX, _COMFY)],
    "wan": [(_WAN, _COMFY)], "hunyuan-video": [(_HUNYUAN, _COMFY)],
    "z-image": [(_Z_IMAGE, ("diffusion_model.", ".", "lora.down", "lora.up"))],
}  # fmt: skip


_PARTNERS = {"wan": ("blocks.#.self_attn.q", "blocks.#.cross_attn.k_img", "blocks.#.cross_attn.v_img"),
             "hunyuan-video": ("double_blocks.0.img_attn_qkv",)}  # fmt: skip
"""Layers without which a reader does not know a file as its own."""


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Every layer of a model that a LoRA can adapt -> (in, out, kernel)."""
    found = {name: Module.of(name, layer, 1) for name, layer in model.named_modules()}
    return {name: (m.in_features, m.out_features, m.kernel) for name, m in found.items() if m is not None}


def loader_of(base: str) -> Any:
    """Diffusers' reader of LoRAs for a base. None if it has none."""
    import diffusers.loaders as loaders

    if base in ("sd15", "sd2", "sdxl", "sdxl-refiner"):
        return loaders.StableDiffusionLoraLoaderMixin
    return getattr(loaders, _LOADERS[base]) if base in _LOADERS else None


def read_as_diffusers(base: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors as diffusers' reader for a base hands them to the model. A UNet's alphas are left to it.

    Raises:
        Exception: of any kind, as the reader raises it.
    """
    loader = loader_of(base)
    if loader.__name__ == "StableDiffusionLoraLoaderMixin":
        from diffusers.utils import convert_unet_state_dict_to_peft

        # 2 is the depth of the blocks of every UNet in the table.
        named, _ = loader.lora_state_dict(dict(tensors), unet_config=SimpleNamespace(layers_per_block=2))
        parts = {key.removeprefix("unet."): tensor for key, tensor in named.items() if not key.endswith(".alpha")}
        return dict(convert_unet_state_dict_to_peft(parts))
    return {key.removeprefix("transformer."): t for key, t in loader.lora_state_dict(dict(tensors)).items()}


def _sgm_names(shapes: dict[str, Shape]) -> Iterator[str]:
    """Names that the original code of Stable Diffusion may have for a UNet's modules."""
    yield from ("time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2", "out.2", "input_blocks.0.0")
    inner = {re.sub(r"^.*?attentions\.\d+\.", "", name) for name in shapes if "attentions." in name}
    layers = {*inner, "in_layers.2", "out_layers.3", "emb_layers.1", "skip_connection", "op", "conv"}
    places = [f"{side}put_blocks.{i}.{j}" for side in ("in", "out") for i in range(12) for j in range(3)]
    for place, layer in itertools.product([*places, *(f"middle_block.{i}" for i in range(3))], sorted(layers)):
        yield f"{place}.{layer}"


def _ask_unet(base: str, shapes: dict[str, Shape]) -> dict[str, Parts]:
    """Original name -> the module that it is, one name at a time."""
    found: dict[str, Parts] = {}
    for name in _sgm_names(shapes):
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors = {f"{key}.lora_down.weight": torch.zeros(1, 1), f"{key}.lora_up.weight": torch.zeros(1, 1)}
        try:
            module = next(iter(read_as_diffusers(base, tensors))).partition(".lora_")[0]
        except (ValueError, KeyError, IndexError):
            continue
        if module in shapes:
            found[name] = ((module, ((0, shapes[module][1]),)),)
    return found


def _ask(base: str, shapes: dict[str, Shape], templates: list[str], spelling: tuple[str, ...]) -> dict[str, Parts]:
    """Original name -> the modules, and rows of its lora_B, that it is. Numbers in lora_B tell where each row went."""
    found: dict[str, Parts] = {}
    for template in templates:
        for block in range(100 if "#" in template else 1):
            name = template.replace("#", str(block))
            rows = torch.arange(_ROWS, dtype=torch.float64)[:, None] + 1
            tensors = _layer(name, rows, spelling)
            for partner in _PARTNERS.get(base, ()):
                if (other := partner.replace("#", str(block))) != name:
                    tensors |= _layer(other, -rows, spelling)
            try:
                named = read_as_diffusers(base, tensors)
            except (ValueError, KeyError, IndexError, AssertionError, RuntimeError):
                break
            if not (parts := _parts(named, shapes)):
                break
            found[name] = parts
    return found


def _layer(name: str, rows: torch.Tensor, spelling: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A LoRA of rank 1 of one layer, as a program spells it."""
    prefix, dot, down, up = spelling
    key = f"{prefix}{name.replace('.', dot)}"
    return {f"{key}.{down}.weight": torch.ones(1, 1, dtype=rows.dtype), f"{key}.{up}.weight": rows}


def _parts(named: dict[str, torch.Tensor], shapes: dict[str, Shape]) -> Parts:
    """Modules and rows by the numbers in what the reader made. Nothing if a module is not of the model."""
    ups = {
        k.removesuffix(".lora_B.weight"): t for k, t in named.items() if k.endswith(".lora_B.weight") and t.max() > 0
    }
    if not ups or not ups.keys() <= shapes.keys():
        return ()
    total = sum(shapes[module][1] for module in ups)
    parts = []
    for module, tensor in ups.items():
        numbers = [int(n) - 1 for n in tensor[:, 0].tolist()]
        cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers)]
        ranges = [(numbers[a], numbers[b - 1] + 1) for a, b in itertools.pairwise(cuts)]
        parts.append((module, tuple((a * total // _ROWS, b * total // _ROWS) for a, b in ranges)))
    return tuple(parts)


def table_of(base: str, variant: str) -> tuple[dict[str, Shape], dict[str, Parts]]:
    """Modules of a variant's model with their shapes, and the original code's names for them."""
    shapes = shapes_of(MODELS[base][variant]())
    if any(name.startswith("down_blocks.") for name in shapes):
        return shapes, _ask_unet(base, shapes)
    layers: dict[str, Parts] = {}
    for templates, spelling in _ASKED.get(base, []):
        layers |= _ask(base, shapes, templates, spelling)
    return shapes, layers


_NUMBER = re.compile(r"[0-9]+")


def compressed(table: dict[str, Any]) -> list[list[Any]]:
    """Rows of a table by name, those that differ in one running number as one: ``blocks.{0-18}.attn`` and ``{}`` in its value."""
    rows: list[list[Any]] = []
    left = dict(sorted(table.items(), key=lambda item: natural_order(item[0])))
    while left:
        name, value = next(iter(left.items()))
        best = [name]
        for found in _NUMBER.finditer(name):
            first, run = int(found[0]), []
            for number in itertools.count(first):
                other = f"{name[: found.start()]}{number}{name[found.end() :]}"
                if other not in left or left[other] != _moved(value, first, number):
                    break
                run.append(other)
            if len(run) > len(best):
                best, span = run, (found.start(), found.end(), first)
        if len(best) == 1:
            rows.append([name, *value])
        else:
            start, end, first = span
            rows.append([f"{name[:start]}{{{first}-{first + len(best) - 1}}}{name[end:]}", *_moved(value, first, "{}")])
        for name in best:
            del left[name]
    return rows


def _moved(value: Any, first: int, number: int | str) -> Any:
    """A table's value with a block's number in its module names replaced."""
    if isinstance(value, str):
        return re.sub(rf"(blocks|layers|_refiner)\.{first}\.(?!.*blocks\.)", rf"\1.{number}.", value)
    return type(value)(_moved(part, first, number) for part in value) if isinstance(value, tuple | list) else value


def tables() -> dict[str, Any]:
    """The content of `bases.PATH`."""
    made: dict[str, Any] = {}
    for base, variants in MODELS.items():
        for variant in variants:
            shapes, layers = table_of(base, variant)
            rows = {name: [i, o, *(kernel or ())] for name, (i, o, kernel) in shapes.items()}
            made.setdefault(base, {})[variant] = {
                "modules": compressed(rows),
                "layers": compressed(
                    {name: [[m, *map(list, ranges)] for m, ranges in parts] for name, parts in layers.items()}
                ),
            }
    return made


def text_of(made: dict[str, Any]) -> str:
    """The tables as JSON with one row a line."""

    def block(table: Any) -> str:
        if isinstance(table, list):
            return (
                "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in table) + "\n]" if table else "[]"
            )
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {block(value)}" for key, value in table.items()) + "\n}"

    return block(made) + "\n"


if __name__ == "__main__":
    PATH.write_text(text_of(tables()))
