"""Photo file -> LoRA file in Stable Diffusion 1.5's layout (99,648 numbers), against 40 steps of fine-tuning the same LoRA.

    python benchmarks/bench_synthesis_sd15.py --side 32

Canonical form, VAE and ADALoRA prior have the size of recipe `sd15_faces` (latent 512, width 1024, depth 8) and random weights:
what counts is seconds. The photo is a drawn portrait, read by the portraits world's recogniser; a face recogniser's own time
comes on top. Fine-tuning is PEFT's on a UNet of SD 1.5's shape with random weights, in fp32, one picture a step, latents and
text states there already. One step is measured and counted 40 times. At ``--side 32`` pictures are 256 pixels wide, about a
quarter of the work of 512 (``--side 64``), so that the ratio is a lower bound.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from _bare import text
from _harness import compare
from diffusers import UNet2DConditionModel
from zoo_training import peft_step

from lorasynth.base import Schedule
from lorasynth.canonical import Canonicalizer
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.images import to_image
from lorasynth.lora.layout import Layout
from lorasynth.prior import Denoiser, DiffusionPrior
from lorasynth.recipes import get_recipe
from lorasynth.synthesizer import Synthesizer
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import Stem
from lorasynth.worlds.base import build_scheduler
from lorasynth.worlds.world import get_world

FINE_TUNING_STEPS = 40
TARGETS = ("to_q", "to_v")


def untrained(encoder: WorldEncoder) -> Synthesizer:
    """A synthesizer of `sd15_faces`' size and random weights, which reads photos as ``encoder`` does."""
    recipe, layout = get_recipe("sd15_faces"), Layout.preset("sd15-w2w", rank=1)
    P = layout.num_parameters
    canonicalizer = Canonicalizer(
        layout=layout, gauge="procrustes", reference=torch.randn(P), mean=torch.randn(P) / 100,
        scale=torch.full((P,), 0.01), active=torch.ones(P, dtype=torch.bool),
    )  # fmt: skip
    each, K = recipe.vae.local_numbers // P, recipe.vae.num_components
    local = [torch.randn(min(each, f), f) / f**0.5 for f in canonicalizer.blocks]
    M = sum(map(len, local))
    vae = LoRAVAE(Stem(local, torch.randn(K, M) / M**0.5), recipe.vae.latent_dim, recipe.vae.hidden_dim).eval()
    config = recipe.priors[0]
    denoiser = Denoiser(recipe.vae.latent_dim, encoder.dim, config.width, config.depth, config.conditioning)
    torch.nn.init.normal_(denoiser.leave.weight, std=0.01)
    priors = {config.conditioning: DiffusionPrior(denoiser).eval()}
    return Synthesizer(base="portraits", encoder=encoder, canonicalizer=canonicalizer, vae=vae, priors=priors)


def main() -> None:
    """Print the prior's own seconds and the ratio, at the sampler's usual and at few steps."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=32, help="of the latents that fine-tuning sees")
    arguments.add_argument("--steps", type=int, nargs="+", default=[20, 8], help="of the sampler")
    arguments.add_argument("--runs", type=int, default=3)
    asked = arguments.parse_args()

    torch.manual_seed(0)
    model = untrained(WorldEncoder(get_world("portraits")))
    latents, noise = torch.randn(2, 1, 4, asked.side, asked.side)
    level = Schedule.of(build_scheduler()).row(torch.tensor([500]))
    given = (latents, noise, level, text(torch.randn(1, 77, 768)))
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).requires_grad_(False).eval()
    fine_tuning_step = peft_step(unet, TARGETS, 1, given)
    with tempfile.TemporaryDirectory() as folder:
        photo, file = Path(folder) / "photo.png", Path(folder) / "lora.safetensors"
        to_image(get_world("portraits").draw([7], [0], 256)[0]).save(photo)
        embedding = model.embed(photo)[None]
        for steps in asked.steps:
            # How many times the prior's own time the whole takes.
            compare(
                f"synthesis_sd15_{steps}_steps_prior_against_whole",
                lambda steps=steps: model.priors["adalora"].predict(embedding, num_inference_steps=steps),
                lambda steps=steps: model(photo, num_inference_steps=steps).save(file, dtype=torch.float16, force=True),
                runs=asked.runs,
            )
            compare(
                f"synthesis_sd15_{steps}_steps_against_fine_tuning",
                lambda steps=steps: model(photo, num_inference_steps=steps).save(file, dtype=torch.float16, force=True),
                fine_tuning_step,
                per_other=1 / FINE_TUNING_STEPS,
                runs=asked.runs,
            )


if __name__ == "__main__":
    main()
