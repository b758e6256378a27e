"""Eight users' requests, each with a LoRA of its own: one batch through an AdapterBank, against one pipeline that takes turns.

    python benchmarks/bench_serving.py --users 8 --steps 20

On the portraits world's base, one picture a request, guidance 2.0. Three ways to take turns, all with diffusers and PEFT, the
LoRAs in memory: "loading" puts each request's LoRA on and takes it off (what `load_lora_weights` does, without reading a file),
"switching" has all of them on the model and calls `set_adapters`, "base" draws without any LoRA, which serves nobody: what is
gained over it comes from the batch. "mixed" is one batch too, by PEFT's own `adapter_names`. The base alone in such a batch is
the account: no way to add LoRAs is faster than to add none. Before anything is timed, the pictures of both sides are compared.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from _harness import compare
from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer

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


def pictures_in_a_batch(world: World, num: int, steps: int, names: list[str] | None) -> torch.Tensor:
    """A picture each by one call of the pipeline: (N, 3, H, W). Row n by the adapter of that name, or all without any.

    NOTE: as `peft.PeftModel` does it, whose forward hands ``adapter_names`` to each of its layers by a hook.
    """
    pipe, unet = world.base.pipe, world.base.denoiser
    noise = noise_on_cpu(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size, seed=0)
    with ExitStack() as stack:
        if names is not None:

            def hand_over(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
                return args, {**kwargs, "adapter_names": names * 2}  # rows without and with the prompt

            for layer in unet.modules():
                if isinstance(layer, BaseTunerLayer):
                    stack.callback(layer.register_forward_pre_hook(hand_over, with_kwargs=True).remove)
        return pipe(
            [world.prompts[0]] * num,
            latents=noise.expand(num, -1, -1, -1),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="pt",
        ).images.float()


def main() -> None:
    """Compare the pictures, then print the ratios and the account."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--ways", nargs="+", default=["base", "loading", "switching", "mixed"], help="to take turns")
    asked = arguments.parse_args()

    logging.set_verbosity_error()
    # One pipeline each: adapters leave their layers on a model.
    ours, theirs = get_world("portraits"), get_world("portraits")
    layout = ours.base.layout(4)
    vectors = torch.stack([LoRA.random(layout, seed=n, std=0.05).vector for n in range(asked.users)])
    settings = {"guidance_scale": GUIDANCE, "num_inference_steps": asked.steps}

    def together() -> torch.Tensor:
        return render(ours.base, [ours.prompts[0]], layout, vectors, seed=0, **settings)[:, 0]

    names = [f"user{n}" for n in range(asked.users)]

    def in_turns(way: str) -> Callable[[], torch.Tensor]:
        if way == "mixed":
            return lambda: pictures_in_a_batch(theirs, asked.users, asked.steps, names)
        return lambda: pictures_in_turns(theirs, layout, vectors, asked.steps, way)

    def bare() -> torch.Tensor:
        return pictures_in_a_batch(theirs, asked.users, asked.steps, None)

    def compared(way: str) -> None:
        difference = float((together() - in_turns(way)()).abs().max())
        if difference > LARGEST_DIFFERENCE:
            raise SystemExit(f"{way}: expected equal pictures, got a difference of {difference:.1e}")
        print(f"{way}: largest difference of a pixel {difference:.1e}", flush=True)

    users = {"per_ours": asked.users, "per_other": asked.users, "runs": asked.runs}
    _, _, bare_s = compare(f"serving_{asked.users}_bare", together, bare, **users)
    for way in asked.ways:
        if way in ("switching", "mixed") and not hasattr(theirs.base.denoiser, "peft_config"):
            for name, vector in zip(names, vectors, strict=True):
                LoRA(layout, vector).attach(theirs.base.denoiser, name)
        if way != "base":
            compared(way)
        _, ours_s, other_s = compare(f"serving_{asked.users}_{way}", together, in_turns(way), **users)
        if way == "mixed":
            said = f"the base alone in the batch is {bare_s / ours_s:.2f} of ours"
            print(
                f"{said}; nothing can be more than {other_s / bare_s:.2f} times as fast as PEFT's mixed batch",
                flush=True,
            )


if __name__ == "__main__":
    main()
