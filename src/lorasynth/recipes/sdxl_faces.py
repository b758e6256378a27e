"""Faces on Stable Diffusion XL, from a zoo of LoRAs of all attention projections: 560 modules, 1,451,520 numbers at rank 1.

    lorasynth zoo import loras/ --table people.csv --layout sdxl-attn --rank 1 --encoder SPEC --out runs/zoo --licence LICENCE
    lorasynth train all sdxl_faces --zoo runs/zoo --out runs/fit
    lorasynth synthesize me.jpg --model runs/fit/synthesizer --encoder SPEC -o me.safetensors --consent self

One CPU core: VAE about half an hour, each of the two priors about 10 hours. The zoo stays on disk, 2.9 MB a LoRA at rank 1, and
may be larger than memory (docs/zoo.md). What to expect is not known: nobody has run it.
"""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.sd15_faces import sd15_faces

BASE = "stabilityai/stable-diffusion-xl-base-1.0"


def sdxl_faces() -> Recipe:
    """As `sd15_faces`, with more directions within modules, of which there are more."""
    recipe = sd15_faces()
    return replace(
        recipe, name="sdxl_faces", family="sdxl", base=BASE, layout="sdxl-attn", picture_size=1024,
        vae=replace(recipe.vae, local_numbers=48_000_000),
    )  # fmt: skip
