"""Do other programs apply our kohya files whole? Their own loaders on our files: modules matched, places, largest ΔW difference.

    python benchmarks/check_other_programs.py --comfyui ComfyUI --sd-scripts sd-scripts --a1111 stable-diffusion-webui

Each option takes a checkout of that program, and any one may be left out; the interpreter needs what that program imports
(ComfyUI: its requirements; sd-scripts: einops, torchvision; A1111: einops). Fails, and says why, when a module is unmatched, sits
at another place of the network than its name says, or has another ΔW. Networks are on the meta device: no weights are needed.

Of A1111, whose networks are in other repositories, its Lora extension runs as it is on a tree of layers with the names and
shapes of Stable Diffusion's transformers; what it imports besides (gradio, its web page's state) is an empty stand-in.
"""

import argparse
import logging
import multiprocessing
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout, Module

TOLERANCE = 1e-5
"""Relative to the largest entry of ΔW: another order of float32's additions."""
Applied = dict[str, tuple[str, Callable[[], Tensor]]]
"""Kohya's name of a module -> its place in the original network (or diffusers' name), and the ΔW applied there (when asked)."""


@dataclass(frozen=True)
class Result:
    """What a program made of a file."""

    program: str
    layout: str
    matched: int
    modules: int
    misplaced: list[str]
    error: float  # largest difference of a ΔW's entry, relative to the largest entry

    @property
    def ok(self) -> bool:
        """All of it is applied, where it belongs."""
        return self.matched == self.modules and not self.misplaced and self.error <= TOLERANCE


def layouts() -> dict[str, Layout]:
    """What is checked: the layouts of the presets, and one whose ranks differ, whose files have no alphas."""
    found = {
        f"{name} rank 4": Layout.preset(name, rank=4)
        for name in ("sd15-w2w", "sd15-attn", "sd15-kohya", "sdxl-attn", "sdxl-kohya")
    }
    modules = found["sd15-attn rank 4"].modules
    mixed = tuple(replace(m, rank=1 + i % 3) for i, m in enumerate(modules))
    return found | {"sd15-attn ranks 1 to 3": Layout(base="sd15", modules=mixed)}


def original_place(name: str) -> str:
    """Where diffusers' module stands in the original network of Stable Diffusion 1.5 and XL (two residual blocks a level)."""
    kind, rest = re.fullmatch(r"(down_blocks|mid_block|up_blocks)\.(.+)", name).groups()  # type: ignore[union-attr]
    if kind == "mid_block":
        return f"middle_block.1.{rest.removeprefix('attentions.0.')}"
    level, number, inner = re.fullmatch(r"(\d+)\.attentions\.(\d+)\.(.+)", rest).groups()  # type: ignore[union-attr]
    if kind == "down_blocks":
        return f"input_blocks.{3 * int(level) + int(number) + 1}.1.{inner}"
    return f"output_blocks.{3 * int(level) + int(number)}.1.{inner}"


def kohya_name(module: Module) -> str:
    """A module's name in the file."""
    return f"lora_unet_{module.name.replace('.', '_')}"


def compare(program: str, name: str, lora: LoRA, applied: Applied) -> Result:
    """Hold what a program applies against the LoRA."""
    misplaced, error = [], 0.0
    for module in lora.layout.modules:
        if kohya_name(module) not in applied:
            continue
        place, delta_W = applied[kohya_name(module)]
        if place.replace(".", "_") not in (n.replace(".", "_") for n in (module.name, original_place(module.name))):
            misplaced.append(f"{module.name} at {place}")
        ours = lora.delta_W(module.name)
        error = max(error, ((delta_W().flatten(1) - ours).abs().max() / ours.abs().max()).item())
    return Result(program, name, len(applied), len(lora.layout.modules), misplaced, error)


def comfyui_model(checkout: Path, base: str) -> Any:
    """ComfyUI's own MODEL of that architecture, found by its detection from diffusers' shapes; without weights."""
    start_comfyui(checkout)
    import comfy.model_detection
    import comfy.model_patcher

    from lorasynth.lora.base_models import sd15_unet, sdxl_unet

    shapes = {"sd15": sd15_unet, "sdxl": sdxl_unet}[base]().state_dict()
    model = comfy.model_detection.model_config_from_diffusers_unet(shapes).get_model({}, "", device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def start_comfyui(checkout: Path) -> None:
    """Make ComfyUI importable, on the CPU."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        import comfy.sd


def in_comfyui(checkout: Path, file: Path, lora: LoRA) -> Applied:
    """By ``load_lora_for_models``, which its node Load LoRA calls."""
    model = comfyui_model(checkout, lora.layout.base)
    import comfy.lora
    import comfy.sd
    import comfy.utils

    loaded = comfy.utils.load_torch_file(str(file), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, loaded, 1.0, 0.0)
    weights, names = patched.model.state_dict(), comfy.lora.model_lora_keys_unet(model.model, {})
    applied: Applied = {}
    for name in (kohya_name(m) for m in lora.layout.modules):
        if names.get(name) in patched.patches:
            key = names[name]
            place = key.removeprefix("diffusion_model.").removesuffix(".weight")
            applied[name] = (place, partial(_in_comfyui, patched.patches[key], weights[key].shape, key))
    return applied


def _in_comfyui(patches: list[Any], shape: torch.Size, key: str) -> Tensor:
    import comfy.lora

    return comfy.lora.calculate_weight(patches, torch.zeros(shape), key)


def in_sd_scripts(checkout: Path, file: Path, lora: LoRA) -> Applied:
    """By ``create_network_from_weights``, with which its generation and merging scripts load a LoRA."""
    sys.path.insert(0, str(checkout))
    from library.original_unet import UNet2DConditionModel
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks.lora import create_network_from_weights

    with torch.device("meta"):
        if lora.layout.base == "sdxl":
            unet = SdxlUNet2DConditionModel()
        else:  # its Stable Diffusion 1.5, as its library.model_util sets it up
            unet = UNet2DConditionModel(
                sample_size=64, attention_head_dim=8, cross_attention_dim=768, use_linear_projection=False
            )
    made, weights = create_network_from_weights(1.0, str(file), None, [], unet, for_inference=True)
    made.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    wrong = made.load_state_dict(weights, strict=False)
    missing = [key for key in wrong.missing_keys if not key.endswith(".alpha")]  # without one, it has taken the rank
    if missing or wrong.unexpected_keys:
        raise RuntimeError(f"sd-scripts: missing {missing[:3]}, unexpected {wrong.unexpected_keys[:3]}")
    # Its names are the original network's for XL: the file's module is known by its numbers.
    stored = load_file(file)
    downs = {stored[f"{n}.lora_down.weight"].numpy().tobytes(): n for n in map(kohya_name, lora.layout.modules)}
    applied: Applied = {}
    for part in made.unet_loras:
        down, up = part.lora_down.weight.detach(), part.lora_up.weight.detach()
        shape = part.org_module_ref[0].weight.shape
        if (of_file := (len(up), *down.shape[1:])) != shape:
            raise RuntimeError(f"sd-scripts: {part.lora_name} is of shape {tuple(shape)}, the file's of {of_file}")
        place = part.lora_name.removeprefix("lora_unet_")
        applied[downs[down.numpy().tobytes()]] = (place, partial(part.get_weight, 1.0))
    return applied


def in_a1111(checkout: Path, file: Path, lora: LoRA) -> Applied:
    """By ``load_network`` of its built-in Lora extension."""
    tree = nn.Module()
    for m in lora.layout.modules:
        at = tree
        *path, last = f"diffusion_model.{original_place(m.name)}".split(".")
        for part in path:
            if part not in dict(at.named_children()):
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.add_module(last, _layer(m))
    networks = _a1111_networks(checkout, file.parent, tree, is_sdxl=lora.layout.base == "sdxl")
    network = networks.load_network(file.stem, types.SimpleNamespace(filename=str(file)))
    applied: Applied = {}
    for key, module in network.modules.items():
        applied[module.network_key.split(".")[0]] = (key.removeprefix("diffusion_model_"), partial(_in_a1111, module))
    return applied


def _layer(module: Module) -> nn.Module:
    if module.kernel is None:
        return nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    channels = module.in_features // (module.kernel[0] * module.kernel[1])
    return nn.Conv2d(channels, module.out_features, module.kernel, bias=False, device="meta")


def _in_a1111(module: Any) -> Tensor:
    return module.calc_updown(torch.zeros(module.sd_module.weight.shape))[0]


def _a1111_networks(checkout: Path, folder: Path, tree: nn.Module, *, is_sdxl: bool) -> Any:
    """Its module ``networks``, with stand-ins for what belongs to its web page; the network is one with these layers."""
    text = types.SimpleNamespace(wrapped=nn.Module())
    model = types.SimpleNamespace(
        model=tree, is_sdxl=is_sdxl, cond_stage_model=text, conditioner=types.SimpleNamespace(embedders=[])
    )
    options = types.SimpleNamespace(lora_dir=str(folder), lyco_dir_backcompat=str(folder))
    empty = ("gradio", *(f"modules.{name}" for name in (
        "errors", "scripts", "patches", "sd_hijack", "cache", "hashes", "textual_inversion.textual_inversion",
    )))  # fmt: skip
    stand_ins: dict[str, dict[str, Any]] = {name: {} for name in empty} | {
        "modules.shared": {"sd_model": model, "cmd_opts": options, "walk_files": lambda *_, **__: []},
        "modules.devices": {"cpu": torch.device("cpu"), "dtype": torch.float32},
        "modules.sd_models": {"read_state_dict": load_file},
        "modules.models.sd3.mmdit": {"QkvLinear": type("QkvLinear", (nn.Linear,), {})},
    }
    for name, values in stand_ins.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            here = ".".join(parts[:depth])
            module = sys.modules.setdefault(here, types.ModuleType(here))
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
        vars(sys.modules[name]).update(values)
    sys.path.insert(0, str(checkout / "extensions-builtin" / "Lora"))
    import networks

    networks.assign_network_names_to_compvis_modules(model)
    return networks


PROGRAMS: dict[str, Callable[[Path, Path, LoRA], Applied]] = {
    "comfyui": in_comfyui,
    "sd-scripts": in_sd_scripts,
    "a1111": in_a1111,
}


def check(program: str, checkout: Path, names: list[str] | None = None) -> list[Result]:
    """Write a random LoRA of each layout, and have the program load it."""
    logging.disable(logging.INFO)
    results = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for i, (name, layout) in enumerate(layouts().items()):
            if names is None or name in names:
                lora = LoRA.random(layout, seed=i)
                file = lora.save(Path(folder) / f"{i}.safetensors")
                results.append(compare(program, name, lora, PROGRAMS[program](checkout, file, lora)))
    return results


def main() -> None:
    """Check each program in a process of its own, as their modules share names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for program in PROGRAMS:
        parser.add_argument(f"--{program}", type=lambda folder: Path(folder).resolve(strict=True), metavar="CHECKOUT")
    given = {name.replace("_", "-"): path for name, path in vars(parser.parse_args()).items() if path is not None}
    if not given:
        parser.error("expected the checkout of at least one program, got none")
    failed = False
    for program, checkout in given.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            for r in process.submit(check, program, checkout).result():
                where = f"misplaced {r.misplaced[0]}" if r.misplaced else "all in their places"
                print(
                    f"{'ok    ' if r.ok else 'FAILED'} {r.program}: {r.layout}: {r.matched} of {r.modules} modules, {where}, "
                    f"largest relative difference of ΔW {r.error:.1e}",
                    flush=True,
                )
                failed |= not r.ok
    if failed:
        raise SystemExit("a file of ours is not applied whole; see the lines above")


if __name__ == "__main__":
    main()
