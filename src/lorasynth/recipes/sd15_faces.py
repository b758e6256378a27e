"""Faces on Stable Diffusion 1.5, from a zoo of weights2weights' layout: 64 modules, 99,648 numbers at rank 1.

    lorasynth zoo import --w2w RELEASE --table people.csv --embeddings faces.npy --encoder SPEC --licence w2w --out runs/zoo
    lorasynth train all sd15_faces --zoo runs/zoo --out runs/fit
    lorasynth synthesize me.jpg --model runs/fit/synthesizer --encoder SPEC -o me.safetensors --consent self

On one CPU core the VAE takes about half an hour. Each of the two priors takes about 10 hours (0.35 s a step of 128). The zoo
stays on disk, 0.2 MB a LoRA, and may be larger than memory (docs/zoo.md).

Nobody has run this recipe in full. It has the paper's scale: latent 512, 100,000 steps of 128. `benchmarks/sd15_size.py` runs it
with short training on planted LoRAs of this very shape (docs/results/figures.md).
"""

from dataclasses import replace

from lorasynth.pipeline.recipe import Recipe
from lorasynth.prior.training import PriorConfig
from lorasynth.recipes.through_photos import THROUGH_PHOTOS
from lorasynth.training import LoopConfig
from lorasynth.vae.training import VAEConfig

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def sd15_faces() -> Recipe:
    """The paper's scale: tens of thousands of LoRAs, 513 at the very least, and an encoder of 512 numbers or more."""
    loop = LoopConfig(
        steps=100_000, learning_rate=3e-4, warmup_steps=1_000, weight_decay=0.05, ema_decay=0.9995, validate_every=1_000,
        checkpoint_every_s=900.0,
    )  # fmt: skip
    prior = PriorConfig(width=1024, depth=8, dropout=0.1, batch_size=128, loop=loop)
    return Recipe(
        name="sd15_faces", family="sd15", base=BASE, layout="sd15-w2w", picture_size=512, gauge="procrustes", **THROUGH_PHOTOS,
        vae=VAEConfig(
            num_components=512, local_numbers=16_000_000, latent_dim=512, hidden_dim=1024, dropout=0.1, batch_size=128,
            loop=LoopConfig(steps=20_000, learning_rate=5e-4, warmup_steps=500, weight_decay=0.05, validate_every=500),
        ),
        priors=tuple(replace(prior, conditioning=c) for c in ("adalora", "adanorm")),
    )  # fmt: skip


def sd15_faces_small() -> Recipe:
    """The same for a zoo of some hundreds of LoRAs, 65 at the least: a few minutes on one core.

    A latent has to be far shorter than there are LoRAs. A stem of nearly as many directions finds their noise. No prior then
    learns more from its latents than ridge regression says (docs/results/figures.md).
    """
    recipe = sd15_faces()
    return replace(
        recipe, name="sd15_faces_small",
        vae=VAEConfig(num_components=64, local_numbers=4_000_000, latent_dim=64),
        priors=tuple(
            PriorConfig(
                conditioning=p.conditioning, dropout=0.1,
                loop=LoopConfig(steps=1_200, learning_rate=5e-4, weight_decay=0.05),
            )
            for p in recipe.priors
        ),
    )  # fmt: skip
