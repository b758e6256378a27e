"""The names that other programs have for the modules of a base's model, asked of diffusers' converters.

A converter of LoRA files, or of whole checkpoints, is given tensors that hold the numbers of their rows. Where these numbers come
out tells which module, and which rows of it, a name is.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from lorasynth.lora.base_models import MODELS, shapes_of
from lorasynth.lora.base_readers import read_as_diffusers
from lorasynth.lora.bases import Parts, Shape

_ROWS = 7 * 3072  # rows of a layer that is asked for: a third, a half and FLUX's seventh are whole numbers

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


_CHECKPOINTS = {
    "sd3": "convert_sd3_transformer_checkpoint_to_diffusers", "chroma": "convert_chroma_transformer_checkpoint_to_diffusers",
    "z-image": "convert_z_image_transformer_checkpoint_to_diffusers",
    "hunyuan-video": "convert_hunyuan_video_transformer_to_diffusers",
}  # fmt: skip
"""Base -> diffusers' converter of whole checkpoints, where its converter of LoRAs knows no original names, or not all."""
_PARTNERS = {"wan": ("blocks.#.self_attn.q", "blocks.#.cross_attn.k_img", "blocks.#.cross_attn.v_img"),
             "hunyuan-video": ("double_blocks.0.img_attn_qkv",)}  # fmt: skip
"""Layers without which a reader does not know a file as its own."""


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
    return _scaled({module: [int(n) - 1 for n in tensor[:, 0].tolist()] for module, tensor in ups.items()}, shapes)


def _scaled(rows: dict[str, list[int]], shapes: dict[str, Shape]) -> Parts:
    """Modules with ranges of rows, from those out of `_ROWS` that went into each."""
    total, parts = sum(shapes[module][1] for module in rows), []
    for module, numbers in rows.items():
        cuts = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers)]
        ranges = [(numbers[a], numbers[b - 1] + 1) for a, b in itertools.pairwise(cuts)]
        parts.append((module, tuple((a * total // _ROWS, b * total // _ROWS) for a, b in ranges)))
    return tuple(parts)


class _Checkpoint(dict[str, torch.Tensor]):
    """A checkpoint that has whatever tensor is asked for, filled with numbers that say which it is and which row."""

    def __init__(self, keys: Iterable[str]):
        super().__init__()
        self.asked: list[str] = []
        for key in keys:
            self.__missing__(key)

    def __missing__(self, key: str) -> torch.Tensor:
        self[key] = torch.arange(_ROWS, dtype=torch.int32)[:, None] + _ROWS * len(self.asked)
        self.asked.append(key)
        return self[key]

    def pop(self, key: str, *_: Any) -> torch.Tensor:
        value = self[key]
        del self[key]
        return value


def _ask_checkpoint(base: str, shapes: dict[str, Shape]) -> dict[str, Parts]:
    """Original name -> the modules, and rows of it, that it is, by diffusers' converter of whole checkpoints."""
    from diffusers.loaders import single_file_utils

    convert = getattr(single_file_utils, _CHECKPOINTS[base])
    checkpoint = _Checkpoint(f"{name}.weight" for name in _seeds(base, shapes))
    found: dict[str, dict[str, list[int]]] = {}
    for key, tensor in convert(checkpoint).items():
        if (module := key.removesuffix(".weight")) in shapes:
            numbers = tensor[:, 0].tolist()
            source = checkpoint.asked[numbers[0] // _ROWS].removesuffix(".weight")
            found.setdefault(source, {})[module] = [number % _ROWS for number in numbers]
    return {source: _scaled(rows, shapes) for source, rows in found.items() if source not in shapes}


def _seeds(base: str, shapes: dict[str, Shape]) -> Iterator[str]:
    """Layers by which a converter of checkpoints knows how many blocks there are, or all that it is to rename."""

    def numbers(kind: str) -> list[int]:
        found = (re.match(rf"{kind}\.([0-9]+)\.", name) for name in shapes)
        return sorted({int(match[1]) for match in found if match})

    if base == "sd3":
        yield "context_embedder"
        yield from (f"joint_blocks.{i}.x_block.attn2.qkv" for i in numbers(r"transformer_blocks(?=\.\d+\.attn2)"))
        yield f"joint_blocks.{numbers('transformer_blocks')[-1]}.x_block.attn.qkv"
    elif base == "chroma":
        yield f"double_blocks.{numbers('transformer_blocks')[-1]}.img_attn.qkv"
        yield f"single_blocks.{numbers('single_transformer_blocks')[-1]}.linear1"
        yield f"distilled_guidance_layer.layers.{numbers('distilled_guidance_layer.layers')[-1]}.in_layer"
    elif base == "z-image":
        yield from ("x_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1")
        for block in ("layers", "noise_refiner", "context_refiner"):
            yield from (f"{block}.{i}.attention.{part}" for i in numbers(block) for part in ("qkv", "out"))
    elif base == "hunyuan-video":
        for name in _HUNYUAN:
            yield from (name.replace("#", str(i)) for i in range(60 if "#" in name else 1))


def table_of(base: str, variant: str) -> tuple[dict[str, Shape], dict[str, Parts]]:
    """Modules of a variant's model with their shapes, and the original code's names for them."""
    shapes = shapes_of(MODELS[base][variant]())
    if any(name.startswith("down_blocks.") for name in shapes):
        return shapes, _ask_unet(base, shapes)
    layers: dict[str, Parts] = _ask_checkpoint(base, shapes) if base in _CHECKPOINTS else {}
    for templates, spelling in _ASKED.get(base, []):
        layers |= _ask(base, shapes, templates, spelling)
    return shapes, layers
