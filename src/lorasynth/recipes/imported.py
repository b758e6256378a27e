"""Any imported zoo: base, modules and rank are the zoo's, and the size of what is trained follows from how many LoRAs it has.

    lorasynth zoo import loras/ --table people.csv --encoder SPEC --licence CC-BY-4.0 --out runs/zoo
    lorasynth train all imported --zoo runs/zoo --out runs/fit
    lorasynth synthesize me.jpg --model runs/fit/synthesizer --encoder SPEC -o me.safetensors --consent self

Minutes on one core for some hundreds of LoRAs. What to expect: LoRAs that were trained each from an initialisation of its own
teach nothing, and training says so (docs/reference/real-bases.md#a-zoo-that-teaches-nothing).
"""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.recipes.sd15_faces import sd15_faces, sd15_faces_small
from lorasynth.recipes.through_photos import THROUGH_PHOTOS
from lorasynth.zoo.store import Zoo

BASES = {
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", 512),
    "sd2": ("stabilityai/stable-diffusion-2-1", 768),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", 1024),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers", 1024),
    "flux": ("black-forest-labs/FLUX.1-dev", 1024),
    "auraflow": ("fal/AuraFlow-v0.3", 1024),
}
"""What layouts call a base -> its hub id, and the pixels a side of what it draws. Each has a recipe, and a tiny one."""
MANY = 5_000
"""LoRAs from which on the training of `sd15_faces` is worth its hours."""
LORAS_A_NUMBER = 8
"""LoRAs for each number of a latent: with 653 LoRAs 64 numbers are learned and 512 are noise (docs/results/figures.md)."""


def sized_by(recipe: Recipe, zoo: Zoo) -> Recipe:
    """A recipe with the zoo's base, and a latent far shorter than the zoo has LoRAs to learn from."""
    count = sum(item.split == "train" for item in zoo.items)
    size = max(2, min(512, count // LORAS_A_NUMBER))
    usual = sd15_faces() if count >= MANY else sd15_faces_small()
    base, pixels = BASES.get(zoo.layout.base, (zoo.layout.base or "unknown", 512))
    seeds = {"vae": recipe.vae.loop.seed, "prior": recipe.priors[0].loop.seed}
    vae = replace(usual.vae, num_components=size, latent_dim=size, loop=replace(usual.vae.loop, seed=seeds["vae"]))
    priors = tuple(replace(p, loop=replace(p.loop, seed=seeds["prior"])) for p in usual.priors)
    return replace(recipe, base=base, picture_size=pixels, vae=vae, priors=priors)


def imported() -> Recipe:
    """Base, modules, rank and size are the zoo's."""
    return Recipe(name="imported", picture_size=512, gauge="procrustes", fit_to_zoo=sized_by, **THROUGH_PHOTOS)
