"""Eight users' requests, each with a LoRA of its own: one batch through an AdapterBank, against one pipeline that takes turns.

    python benchmarks/bench_serving.py --users 8 --steps 20

On the portraits world's base, one picture a request, guidance 2.0. Three ways to take turns, all with diffusers and PEFT, the
LoRAs in memory: "loading" puts each request's LoRA on and takes it off (what `load_lora_weights` does, without reading a file),
"switching" has all of them on the model and calls `set_adapters`, "base" draws without any LoRA, which serves nobody: what is
gained over it comes from the batch. Before anything is timed, the pictures of both sides are compared.
"""

import argparse
from collections.abc import Callable

import torch
from _harness import compare
from diffusers.utils import logging

from lorasynth.base import render
from lorasynth.devices import noise_on_cpu
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.worlds.world import World, get_world

LARGEST_DIFFERENCE = 2e-3  # of pixels in [0, 1]; rounding of another order of sums
GUIDANCE = 2.0


def pictures_in_turns(world: World, layout: Layout, vectors: torch.Tensor, steps: int, way: str) -> torch.Tensor:
    """A picture a LoRA by the pipeline, one after another: (N, 3, H, W). ``way`` as in the module's docstring."""
    pipe, unet = world.base.pipe, world.base.denoiser
    noise = noise_on_cpu(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size, seed=0)
    drawn = []
    for n, vector in enumerate(vectors):
        if way == "loading":
            LoRA(layout, vector).attach(unet, "request")
        elif way == "switching":
            unet.set_adapters(f"user{n}")
        drawn.append(
            pipe(
                [world.prompts[0]],
                latents=noise,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                output_type="pt",
            ).images
        )
        if way == "loading":
            LoRA.detach(unet, "request")
    return torch.cat(drawn).float()


def main() -> None:
    """Compare the pictures, then print the three ratios."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--runs", type=int, default=5)
    asked = arguments.parse_args()

    logging.set_verbosity_error()
    # One pipeline each: adapters leave their layers on a model.
    ours, theirs = get_world("portraits"), get_world("portraits")
    layout = ours.base.layout(4)
    vectors = torch.stack([LoRA.random(layout, seed=n, std=0.05).vector for n in range(asked.users)])
    settings = {"guidance_scale": GUIDANCE, "num_inference_steps": asked.steps}

    def together() -> torch.Tensor:
        return render(ours.base, [ours.prompts[0]], layout, vectors, seed=0, **settings)[:, 0]

    def in_turns(way: str) -> Callable[[], torch.Tensor]:
        return lambda: pictures_in_turns(theirs, layout, vectors, asked.steps, way)

    def compared(way: str) -> None:
        difference = float((together() - in_turns(way)()).abs().max())
        if difference > LARGEST_DIFFERENCE:
            raise SystemExit(f"{way}: expected equal pictures, got a difference of {difference:.1e}")
        print(f"{way}: largest difference of a pixel {difference:.1e}", flush=True)

    users = {"per_ours": asked.users, "per_other": asked.users, "runs": asked.runs}
    compare(f"serving_{asked.users}_base", together, in_turns("base"), **users)
    compared("loading")
    compare(f"serving_{asked.users}_loading", together, in_turns("loading"), **users)
    for n, vector in enumerate(vectors):
        LoRA(layout, vector).attach(theirs.base.denoiser, f"user{n}")
    compared("switching")
    compare(f"serving_{asked.users}_switching", together, in_turns("switching"), **users)


if __name__ == "__main__":
    main()
