"""Pictures of many LoRAs at once: the sampler of the pipeline, with an AdapterBank in the batch."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.devices import noise_on_cpu
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.worlds.base import token_ids
from lorasynth.worlds.vae import decode

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@torch.no_grad()
def render(
    pipe: "StableDiffusionPipeline",
    prompts: list[str],
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    *,
    seed: int = 0,
    guidance_scale: float = 2.0,
    num_inference_steps: int = 20,
    chunk: int | None = None,
) -> Float[Tensor, "N K 3 H W"]:
    """K pictures with each of N LoRAs, one for each prompt.

    Equals running the pipeline once a LoRA: picture k starts from the same noise whatever the LoRA.

    Args:
        pipe: the base pipeline.
        prompts: K prompts.
        layout: of the LoRAs.
        vectors: N LoRAs; zeros draw with the base model itself.
        seed: of the starting noise.
        guidance_scale: classifier-free guidance; 1 is none.
        num_inference_steps: sampler steps.
        chunk: LoRAs in one batch; by default 16, on a GPU 128.

    Returns:
        RGB in [0, 1].
    """
    text = pipe.text_encoder(token_ids(pipe, prompts + [""] * len(prompts)))[0]
    unet, scheduler = pipe.unet, pipe.scheduler
    size = unet.config.sample_size
    noise = noise_on_cpu(len(prompts), unet.config.in_channels, size, size, seed=seed)
    guided = guidance_scale != 1
    pictures = []
    for part in vectors.split(chunk or (16 if vectors.device.type == "cpu" else 128)):
        n = len(part)
        # Rows of one adapter: its K prompts, then the K empty ones.
        states = (text if guided else text[: len(prompts)]).repeat(n, 1, 1)
        x = noise.repeat(n, 1, 1, 1)
        scheduler.set_timesteps(num_inference_steps)
        with AdapterBank(unet, layout, n, part).attached():
            for t in scheduler.timesteps:
                rows = x.unflatten(0, (n, -1))
                rows = (torch.cat([rows, rows], 1) if guided else rows).flatten(0, 1)
                v = unet(rows, t, encoder_hidden_states=states, return_dict=False)[0]
                if guided:
                    with_text, without = v.unflatten(0, (n, 2, -1)).unbind(1)
                    v = (without + guidance_scale * (with_text - without)).flatten(0, 1)
                x = scheduler.step(v, t, x, return_dict=False)[0]
        pictures.append(decode(pipe.vae, x).unflatten(0, (n, -1)))
    return torch.cat(pictures)
