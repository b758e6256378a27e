"""Rank reduction and merging of LoRA files, file to file, against sd-scripts' `resize_lora` and `svd_merge_lora`.

Needs a checkout of kohya's sd-scripts: --sd-scripts FOLDER. Its package `library` imports what neither function uses; a stand-in
takes its place, so that both functions run as they are. Layout: SD 1.5's attention at rank 32, reduced to 4.
"""

import importlib
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from _harness import compare
from safetensors.torch import save_file

from lorasynth.canonical.resize import merge, resize
from lorasynth.lora.factors import LoRA, delta_W_relative_error
from lorasynth.lora.layout import Layout


def networks_of(checkout: Path) -> tuple[Any, Any]:
    """sd-scripts' modules `resize_lora` and `svd_merge_lora`."""
    constants = SimpleNamespace(
        SS_METADATA_KEY_V2="ss_v2", SS_METADATA_KEY_BASE_MODEL_VERSION="ss_base_model_version",
        load_metadata_from_safetensors=lambda _: {}, build_minimum_network_metadata=lambda *_: {},
    )  # fmt: skip
    library = ModuleType("library")
    parts = {"train_util": constants, "sai_model_spec": MagicMock(), "utils": MagicMock()}
    parts["model_util"] = SimpleNamespace(is_safetensors=lambda name: str(name).endswith(".safetensors"))
    sys.modules["library"] = library
    for name, part in parts.items():
        setattr(library, name, part)
        sys.modules[f"library.{name}"] = part  # type: ignore[assignment]
    sys.modules["lora"] = ModuleType("lora")
    sys.path.insert(0, str(checkout / "networks"))
    return importlib.import_module("resize_lora"), importlib.import_module("svd_merge_lora")


def error_of(whole: LoRA, file: Path) -> float:
    """Relative error ``‖ΔW - ΔW'‖ / ‖ΔW‖`` of a smaller file, filled up with zeros to the whole's rank."""
    filled, _ = resize(LoRA.load(file), rank=whole.layout.modules[0].rank)
    return float(delta_W_relative_error(whole.layout, whole.vector[None], filled.vector[None]).sqrt())


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--sd-scripts", type=Path, required=True, help="a checkout of sd-scripts")
    parser.add_argument("--runs", type=int, default=2, help="counted pairs")
    options = parser.parse_args()
    theirs_resize, theirs_merge = networks_of(options.sd_scripts)
    with TemporaryDirectory() as name:
        folder = Path(name)
        loras = [LoRA.random(Layout.preset("sd15-attn", rank=32), seed=seed) for seed in range(3)]
        files = [lora.save(folder / f"{i}.safetensors") for i, lora in enumerate(loras)]
        ours, theirs, weights = folder / "ours.safetensors", folder / "theirs.safetensors", [0.5, 0.3, 0.2]

        def our_resize() -> None:
            resize(LoRA.load(files[0]), rank=4)[0].save(ours, force=True)

        def their_resize() -> None:
            with redirect_stderr(StringIO()):
                tensors, _ = theirs_resize.load_state_dict(str(files[0]), torch.float32)
                small, _, _ = theirs_resize.resize_lora_model(tensors, 4, 4, torch.float32, "cpu", None, None, False)
            save_file(small, theirs)

        def our_merge() -> None:
            resize(merge([LoRA.load(file) for file in files], weights), rank=4)[0].save(ours, force=True)

        def their_merge() -> None:
            with redirect_stderr(StringIO()):
                merged, _ = theirs_merge.merge_lora_models(
                    list(map(str, files)), weights, [], 4, 4, "cpu", torch.float32
                )[:2]
            save_file(merged, theirs)

        compare("resize_rank32_to_4", our_resize, their_resize, runs=options.runs)
        print(f"relative error: ours {error_of(loras[0], ours):.6f}, theirs {error_of(loras[0], theirs):.6f}")
        compare("merge_of_three_to_4", our_merge, their_merge, runs=options.runs)
        whole = merge(loras, weights)
        print(f"relative error: ours {error_of(whole, ours):.6f}, theirs {error_of(whole, theirs):.6f}")


if __name__ == "__main__":
    main()
