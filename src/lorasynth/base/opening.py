"""A diffusers pipeline as a base, by the name of a folder, a single-file checkpoint or a hub id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from lorasynth.base.auraflow import AuraFlow
from lorasynth.base.flux import Flux
from lorasynth.base.pipeline import PipelineBase
from lorasynth.base.sd import StableDiffusion
from lorasynth.base.sd3 import StableDiffusion3
from lorasynth.base.sdxl import StableDiffusionXL
from lorasynth.errors import ModelError, UsageError
from lorasynth.storage.files import tensor_shapes
from lorasynth.storage.hub import is_repo_id
from lorasynth.storage.reading import read_json

FAMILIES: dict[str, type[PipelineBase]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "AuraFlowPipeline": AuraFlow,
}
"""diffusers' pipeline, by the name that its model_index.json says -> the base that it becomes."""

_SINGLE_FILES = {
    "v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline", "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline", "sd35_medium": "StableDiffusion3Pipeline", "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline", "flux-schnell": "FluxPipeline",
}  # fmt: skip
"""diffusers' name of what a checkpoint holds -> the pipeline for it."""

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
"""Files that a tokenizer's words can be in."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of a denoiser's and text encoders' weights. The VAE's are always float32: in 16 bits some overflow."""


def open_pipeline(
    name: str, *, resolution: int | None = None, precision: str = "fp32", gradient_checkpointing: bool = False
) -> PipelineBase:
    """A base on the default device, frozen.

    Args:
        name: a folder with a model_index.json, a .safetensors checkpoint, or a hub id. No pickle is read.
        resolution: pixels a side of the pictures; by default those that the pipeline was trained on.
        precision: of the weights: "fp32" or "bf16".
        gradient_checkpointing: less memory for gradients; see `PipelineBase.enable_gradient_checkpointing`.

    Raises:
        ModelError: there is no such pipeline, it is of no known family, or it cannot be read.
        UsageError: the resolution or precision is none for this base.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"expected a precision among {sorted(PRECISIONS)}, got {precision!r}")
    pipe = _from_file(Path(name), precision) if _is_file(name) else _from_folder_or_hub(name, precision)
    base = as_base(pipe, name, resolution)
    if gradient_checkpointing:
        base.enable_gradient_checkpointing()
    return base


def as_base(pipe: Any, name: str, resolution: int | None = None) -> PipelineBase:
    """A pipeline that is open already, as a base.

    Raises:
        ModelError: it is of no known family.
        UsageError: it does not draw pictures of that resolution.
    """
    family = FAMILIES[_known(type(pipe).__name__, name)]
    pipe.to(torch.get_default_device()).set_progress_bar_config(disable=True)
    return family(pipe=pipe, name=name, picture_size=family.usual_size(pipe) if resolution is None else resolution)


def _known(pipeline: object, name: str) -> str:
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        raise ModelError(f"{name}: expected a pipeline among {sorted(FAMILIES)}, got {pipeline}; choose another base")
    return pipeline


def _from_folder_or_hub(name: str, precision: str) -> Any:
    import diffusers
    import transformers

    index = _index(name)
    pipeline = _known(index.get("_class_name"), name)
    diffusers.utils.logging.disable_progress_bar()
    # Parts that a pipeline is without, as Stable Diffusion 3 may be without T5.
    without = {part: None for part, of in index.items() if of == [None, None]} | _without(pipeline)
    if Path(name).is_dir():
        _require_parts(Path(name), [part for part, of in index.items() if isinstance(of, list) and part not in without])
    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(diffusers, pipeline).from_pretrained(
            name,
            dtype={"vae": torch.float32, "default": PRECISIONS[precision]},
            use_safetensors=True,
            variant=_variant(Path(name)),
            **without,
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(f"{name}: cannot be opened as a pipeline ({_first_line(error)}); check its files") from None


def _require_parts(folder: Path, parts: Sequence[str]) -> None:
    """Refuse a folder that lacks a part: libraries name no part, or make a tokenizer of no words."""
    for part in parts:
        needed = [()] if not part.startswith("tokenizer") else [("tokenizer_config.json",), _VOCABULARIES]
        for names in needed:
            if not (any((folder / part / name).is_file() for name in names) if names else (folder / part).is_dir()):
                what = f"{part}/{' or '.join(names)}" if names else f"{part}/"
                raise ModelError(
                    f"{folder}: expected {what}, as its model_index.json says, got none; take it from where the base is from"
                )


def _variant(folder: Path) -> str | None:
    """The variant of a folder that was saved as one: half precision, which most downloads are."""
    names = [path.name for path in folder.glob("*/*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _index(name: str) -> dict[str, Any]:
    """The model_index.json of a folder or of a hub's repository."""
    file = Path(name) / "model_index.json"
    if Path(name).is_dir() and not file.is_file():
        raise ModelError(
            f"{name}: expected a pipeline's folder, got one without model_index.json; give the folder above"
        )
    if not Path(name).is_dir():
        if not is_repo_id(name):
            raise ModelError(
                f"{name}: expected a pipeline's folder, a .safetensors checkpoint or a hub id, got none of them"
            )
        try:
            file = Path(hf_hub_download(name, file.name))
        except (OSError, HfHubHTTPError) as error:
            raise ModelError(f"{name}: no such folder, and the hub could not give it ({_first_line(error)})") from None
    index = read_json(file)
    if not isinstance(index, dict):
        raise ModelError(f"{file}: expected a pipeline's table of parts, got {type(index).__name__}; save it again")
    return index


def _from_file(path: Path, precision: str) -> Any:
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError, infer_diffusers_model_type

    shapes = tensor_shapes(path)
    if any("lora" in key for key in shapes):
        raise ModelError(f"{path}: expected a whole checkpoint, got a LoRA; give the base that it is for")
    kind = infer_diffusers_model_type({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    if kind not in _SINGLE_FILES or (
        kind == "v1" and not any(key.startswith("model.diffusion_model.") for key in shapes)
    ):
        raise ModelError(f"{path}: expected a checkpoint of {sorted(_SINGLE_FILES)}, got another; choose another base")
    try:
        pipeline = _SINGLE_FILES[kind]
        load = getattr(diffusers, pipeline).from_single_file
        pipe = load(str(path), dtype=torch.float32, **_without(pipeline))
    except (OSError, ValueError, HfHubHTTPError, SingleFileComponentError) as error:
        raise ModelError(
            f"{path}: cannot be opened ({_first_line(error)}); diffusers takes a checkpoint's configuration and tokenizers from "
            f"the hub (family {kind}), so be online the first time"
        ) from None
    # NOTE: a single file is loaded in one precision, so in float32 first: the VAE keeps all of its digits.
    for part, network in pipe.components.items():
        if part != "vae" and isinstance(network, torch.nn.Module):
            network.to(PRECISIONS[precision])
    return pipe


def _is_file(name: str) -> bool:
    """Whether it names a checkpoint rather than a folder or a hub id.

    Raises:
        ModelError: one that may hold a pickle.
    """
    if Path(name).is_dir() or not (Path(name).is_file() or name.endswith((".safetensors", *_PICKLES))):
        return False
    if not name.endswith((".safetensors", *_PICKLES)):
        raise ModelError(
            f"{name}: expected a pipeline's folder or a .safetensors checkpoint, got a file; give the folder"
        )
    if not name.endswith(".safetensors"):
        raise ModelError(f"{name}: expected a .safetensors checkpoint; pickles are not opened, convert it first")
    return True


def _without(pipeline: str) -> dict[str, None]:
    """What is not wanted of a pipeline: Stable Diffusion's safety checker, which has no part in training."""
    return {"safety_checker": None} if pipeline == "StableDiffusionPipeline" else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
