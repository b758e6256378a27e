"""kohya's LoRA files, which diffusers, ComfyUI, A1111/Forge and kohya itself all read. For FLUX see `flux`.

``lora_unet_<module, dots as underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``: the effect of a module is
alpha / rank · up · down.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from lorasynth.errors import UsageError
from lorasynth.lora import bases
from lorasynth.lora.adapter import Adapter
from lorasynth.lora.formats import flux
from lorasynth.lora.formats.diffusers import is_transformer, named_factors

_BASE_VERSIONS = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def to_state_dict(lora: Adapter, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under kohya's names, with alpha equal to rank, and the header's fields.

    NOTE: the header must not carry ``lora_adapter_metadata``: diffusers refuses a file that has it beside alphas. And a UNet's
    modules all get the largest rank, those of a smaller one filled up with zeros. Up to 0.39, diffusers takes one module's alpha,
    or rank, for that of all.

    Raises:
        UsageError: the base is a transformer other than FLUX and Chroma, or has modules that kohya's files have no name for.
    """
    if is_transformer(lora.layout):
        return flux.to_state_dict(lora, dtype, _flux_base(lora))
    rank = max(m.rank for m in lora.layout.modules)
    tensors: dict[str, Tensor] = {}
    for name, (A, B) in _by_module(named_factors(lora, "", dtype)).items():
        flat = _flat(name)
        if bases.unet_name(flat) != name:
            raise UsageError(
                f"{name}: expected a module of a UNet for format 'kohya', whose underscores would be read as another name; "
                "choose 'diffusers' or 'peft'"
            )
        if missing := rank - len(A):
            A = pad(A.flatten(1), (0, 0, 0, missing)).view(rank, *A.shape[1:])
            B = pad(B.flatten(1), (0, missing)).view(len(B), rank, *B.shape[2:])
        tensors[f"lora_unet_{flat}.lora_down.weight"], tensors[f"lora_unet_{flat}.lora_up.weight"] = A, B
        tensors[f"lora_unet_{flat}.alpha"] = torch.tensor(float(rank))  # in float32: bfloat16 makes 256 of 257
    header = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    if lora.layout.base in _BASE_VERSIONS:
        header["ss_base_model_version"] = _BASE_VERSIONS[lora.layout.base]
    return tensors, header


@cache
def _flat(name: str) -> str:
    """A module's name without dots. Of SDXL's added embedding, the original code's name.

    NOTE: diffusers 0.42 cuts the numbers off ``add_embedding_linear_1`` and ``_2``. ``label_emb_0_0`` it reads rightly.
    """
    if name.startswith("add_embedding."):
        (model, *_) = bases.of("sdxl")
        name = next((layer for layer, ((module, _), *_) in model.layers.items() if module == name), name)
    return name.replace(".", "_")


def _by_module(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> (lora_A, lora_B), of `named_factors` without a prefix."""
    end = ".lora_A.weight"
    names = [key.removesuffix(end) for key in tensors if key.endswith(end)]
    return {name: (tensors[f"{name}{end}"], tensors[f"{name}.lora_B.weight"]) for name in names}


def _flux_base(lora: Adapter) -> str:
    """The base whose names the file gets.

    Raises:
        UsageError: it is not one whose files under kohya's names are read.
    """
    models = bases.fitting(lora.layout.shapes) if not lora.layout.base else bases.of(lora.layout.base)
    for model in models:
        if model.base in flux.BASES:
            return model.base
    raise UsageError(
        f"expected format 'diffusers' or 'peft' for {lora.layout.base!r}, got 'kohya'; of transformers, only files of "
        f"{' and '.join(flux.BASES)} under kohya's names are read by diffusers and ComfyUI alike"
    )
