"""Reading LoRA files through the gate against diffusers' `lora_state_dict`, which checks nothing: CPU time, interleaved.

Ours ends in a float32 vector with the scale folded in, after every check of the gate. diffusers' ends in renamed tensors, whose
numbers are still in the file (`renamed`), or, as a model needs them, in float32 (`read`). Files in float16: SD 1.5's to_q and
to_v at rank 1 (0.2 MB), its attention at ranks 4 and 16 (1.6 and 6.4 MB), all of kohya's layers at rank 64 (54 MB).
"""

import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _harness import compare
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging

from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout

FILES = (("sd15-w2w", 1, 20), ("sd15-attn", 4, 10), ("sd15-attn", 16, 10), ("sd15-kohya", 64, 1))
"""Preset, rank, and how many files a run reads."""


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted pairs")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    with TemporaryDirectory() as folder:
        for preset, rank, count in FILES:
            for format in ("kohya", "diffusers"):
                paths = [
                    LoRA.random(Layout.preset(preset, rank), seed).save(
                        Path(folder) / f"{preset}-{rank}-{format}-{seed}.safetensors", format, torch.float16
                    )
                    for seed in range(count)
                ]

                def ours(paths: list[Path] = paths) -> None:
                    for path in paths:
                        LoRA.load(path)

                def renamed(paths: list[Path] = paths) -> None:
                    for path in paths:
                        StableDiffusionPipeline.lora_state_dict(str(path), unet_config=None)

                def read(paths: list[Path] = paths) -> None:
                    for path in paths:
                        tensors, _ = StableDiffusionPipeline.lora_state_dict(str(path), unet_config=None)
                        {name: tensor.float() for name, tensor in tensors.items()}

                for other in (renamed, read):
                    name = f"{other.__name__}_{preset}_rank{rank}_{format}"
                    compare(name, ours, other, per_ours=count, per_other=count, runs=options.runs)


if __name__ == "__main__":
    main()
