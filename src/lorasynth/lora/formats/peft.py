"""PEFT's adapter folders: adapter_config.json + adapter_model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorasynth.lora.adapter import Adapter
from lorasynth.lora.configuration import CONFIG_KEY, CONFIG_NAME, WEIGHTS_NAME
from lorasynth.lora.formats.diffusers import named_factors, peft_config
from lorasynth.storage.files import write_json, write_large_tensors
from lorasynth.storage.outputs import require_new_adapter

PREFIX = "base_model.model."


def to_state_dict(lora: Adapter, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """``base_model.model.<module>.lora_A.weight`` tensors, and the configuration as JSON under `CONFIG_KEY`."""
    config = peft_config(lora) | {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": lora.layout.base or None, "bias": "none",
        "inference_mode": True,
    }  # fmt: skip
    return named_factors(lora, PREFIX, dtype), {CONFIG_KEY: json.dumps(config, sort_keys=True)}


def save_folder(lora: Adapter, folder: Path, dtype: torch.dtype, metadata: Mapping[str, str], *, force: bool) -> Path:
    """Write a PEFT folder. It holds an adapter only once its configuration is there, which is written last.

    Raises:
        OutputExistsError: something is in the folder and ``force`` is not given.
        UsageError: the path is a file's, or its parent folder is missing.
    """
    if not require_new_adapter(folder, force=force).is_dir():
        folder.mkdir()
    tensors, header = to_state_dict(lora, dtype)
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    write_large_tensors(folder / WEIGHTS_NAME, tensors, {**metadata, "format": "pt"})
    write_json(folder / CONFIG_NAME, json.loads(header[CONFIG_KEY]))
    return folder
