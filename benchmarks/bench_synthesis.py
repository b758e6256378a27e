"""Photo file -> LoRA file by the shipped synthesizer, against fine-tuning the LoRA on ten photos."""

import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from _harness import compare

from lorasynth.demo import fine_tuning_recipe
from lorasynth.encoders.images import to_image
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_world
from lorasynth.zoo.adapt import train_people
from lorasynth.zoo.initialisation import random_init


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    model = Synthesizer.from_pretrained()
    world = get_world(model.base)
    layout, adapt = model.canonicalizer.layout, fine_tuning_recipe(world.synthesizer_folder)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        to_image(world.draw([7], [0], 256)[0]).save(photo)
        file = Path(folder) / "lora.safetensors"
        compare(
            "synthesis_against_fine_tuning",
            lambda: model(photo).save(file, dtype=torch.float16, force=True),
            lambda: train_people(world.base, layout, random_init(layout, 0), world.photos([7], 10), adapt),
            runs=3,
        )


if __name__ == "__main__":
    main()
