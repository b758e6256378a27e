"""Stand-ins for the names of ComfyUI that the nodes use, as strict as ComfyUI (0.3.64, 0.8.0; real_comfyui.py has it itself).

What they enforce: inputs have only the options of their type; ids are unique among inputs and outputs together; required inputs
are given, numbers lie in their range and choices among the options; a node's class cannot be changed while it runs; it runs in
inference mode and gives as many outputs as it declares. What they do not say, as ComfyUI does not: that part of a LoRA found no
place.
"""

import logging
from abc import ABC, ABCMeta, abstractmethod
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

_COMMON = {"display_name", "optional", "tooltip", "lazy"}
_WIDGET = {*_COMMON, "default", "socketless", "force_input"}
_NUMBER = {*_WIDGET, "min", "max", "step", "display_mode"}


def _type(name: str, options: set[str], python: type | None = None) -> type:
    class Input:
        io_type, allowed, converts = name, options, python

        def __init__(self, id: str, **given: Any):
            if unknown := given.keys() - options:
                raise TypeError(f"{name}.Input got an unexpected keyword argument {sorted(unknown)}")
            self.id, self.optional, self.given = id, bool(given.pop("optional", False)), given

    class Output:
        io_type = name

        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ):
            self.id, self.display_name = id, display_name

    return type(name, (), {"Input": Input, "Output": Output})


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False

    def validate(self) -> None:
        ids = [x.id for x in (*self.inputs, *self.outputs)]
        if len(set(ids)) != len(ids):
            raise ValueError(f"ids must be unique among inputs and outputs: {ids}")


class NodeOutput:
    def __init__(self, *args: Any, ui: dict[str, Any] | None = None):
        self.args, self.ui = args, ui


class _Locked(ABCMeta):
    def __setattr__(cls, name: str, value: Any) -> None:
        if not name.startswith(("__", "_abc")):  # Python's own
            raise AttributeError(f"cannot change {name!r} of a node's class while it runs")
        super().__setattr__(name, value)


class ComfyNode(ABC):
    @classmethod
    @abstractmethod
    def define_schema(cls) -> Schema: ...

    @classmethod
    @abstractmethod
    def execute(cls, **given: Any) -> NodeOutput: ...

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.validate()
        return schema

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        types: dict[str, dict[str, Any]] = {"required": {}}
        for x in cls.GET_SCHEMA().inputs:
            types.setdefault("optional" if x.optional else "required", {})[x.id] = (x.io_type, x.given)
        return types


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...


def run(node: type[ComfyNode], **given: Any) -> NodeOutput:
    """Validate and run a node as ComfyUI's executor does."""
    schema = node.GET_SCHEMA()
    values = {}
    for x in schema.inputs:
        if x.id not in given:
            if not x.optional:
                raise ValueError(f"required input is missing: {x.id}")
            continue
        value, options = given.pop(x.id), x.given
        value = x.converts(value) if x.converts else value
        if "min" in options and value < options["min"]:
            raise ValueError(f"{x.id}: {value} smaller than min of {options['min']}")
        if "max" in options and value > options["max"]:
            raise ValueError(f"{x.id}: {value} bigger than max of {options['max']}")
        if "options" in options and value not in options["options"]:
            raise ValueError(f"{x.id}: {value} not in {options['options']}")
        values[x.id] = value
    if given:
        raise ValueError(f"no such inputs: {sorted(given)}")
    locked: Any = _Locked(node.__name__, (node,), {})
    with torch.inference_mode():
        result = locked.execute(**values)
    assert isinstance(result, NodeOutput)
    assert len(result.args) == len(schema.outputs)
    return result


class BaseModel(nn.Module):
    """ComfyUI's model with one weight for each module, under the names given."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        self.diffusion_model = nn.Module()
        for name, shape in shapes.items():
            at: nn.Module = self.diffusion_model
            for part in name.split("."):
                if part not in dict(at.named_children()):
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class ModelPatcher:
    """A MODEL: a model that is shared, and patches that are not."""

    def __init__(self, model: nn.Module):
        self.model, self.patches = model, {}

    def clone(self) -> "ModelPatcher":
        copy = ModelPatcher(self.model)
        copy.patches = {key: list(patches) for key, patches in self.patches.items()}
        return copy

    def add_patches(self, patches: dict[str, Any], strength: float) -> list[str]:
        there = self.model.state_dict()
        taken = [key for key in patches if key in there]
        for key in taken:
            self.patches.setdefault(key, []).append((strength, patches[key], 1.0, None, None))
        return taken


def model_lora_keys_unet(model: nn.Module, key_map: dict[str, str]) -> dict[str, str]:
    for key in model.state_dict():
        stem = key.removeprefix("diffusion_model.").removesuffix(".weight")
        key_map[f"lora_unet_{stem.replace('.', '_')}"] = key
    return key_map


def load_lora_for_models(model: Any, clip: Any, lora: dict[str, torch.Tensor], strength: float, _: float) -> tuple:
    key_map, read, loaded = model_lora_keys_unet(model.model, {}), set(), {}
    for stem, key in key_map.items():
        parts = [f"{stem}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")]
        if parts[0] in lora and parts[1] in lora:
            loaded[key] = tuple(lora.get(part) for part in parts)
            read.update(parts)
    for key in lora.keys() - read:
        logging.warning("lora key not loaded: %s", key)
    copy = model.clone()
    copy.add_patches(loaded, strength)
    return copy, clip


class _Names:
    Custom = staticmethod(lambda name: _type(name, _COMMON))
    Image, Model = _type("IMAGE", _COMMON), _type("MODEL", _COMMON)
    String = _type("STRING", {*_WIDGET, "multiline", "placeholder", "dynamic_prompts"}, str)
    Int = _type("INT", {*_NUMBER, "control_after_generate"}, int)
    Float = _type("FLOAT", {*_NUMBER, "round"}, float)
    Combo = _type("COMBO", {*_WIDGET, "options", "control_after_generate", "upload", "image_folder", "remote"})
    Schema, NodeOutput, ComfyNode = Schema, NodeOutput, ComfyNode


class Comfy:
    """The modules under their names, with a folder of one's own for LoRA files."""

    NAMES: ClassVar = ("comfy_api", "comfy_api.latest", "comfy", "comfy.lora", "comfy.sd", "folder_paths")

    def __init__(self):
        self.loras = ""
        self.modules = {name: ModuleType(name) for name in self.NAMES}
        get = self.modules.__getitem__
        get("comfy_api.latest").io, get("comfy_api.latest").ComfyExtension = _Names, ComfyExtension  # type: ignore[attr-defined]
        get("comfy.lora").model_lora_keys_unet = model_lora_keys_unet  # type: ignore[attr-defined]
        get("comfy.sd").load_lora_for_models = load_lora_for_models  # type: ignore[attr-defined]
        get("comfy").lora, get("comfy").sd = get("comfy.lora"), get("comfy.sd")  # type: ignore[attr-defined]
        get("folder_paths").get_folder_paths = lambda name: {"loras": [self.loras]}[name]  # type: ignore[attr-defined]
