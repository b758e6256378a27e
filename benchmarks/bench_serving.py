"""Eight users' LoRAs in one batch against one pipeline that switches adapters from request to request: a picture each.

All adapters of the pipeline are loaded beforehand, as a server would keep them; a request is `set_adapters` and a call. The
pictures of both are the same, which is checked first.
"""

import tempfile
from pathlib import Path

import torch
from _harness import compare
from diffusers import StableDiffusionPipeline

import lorasynth
from lorasynth.devices import noise_on_cpu
from lorasynth.evaluate.render import render
from lorasynth.lora.factors import LoRA
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_world

USERS = 8


def main() -> None:
    world, model = get_world("portraits"), Synthesizer.from_pretrained()
    layout, unet, prompt = model.canonicalizer.layout, world.pipe.unet, world.prompts[0]
    with torch.no_grad():
        photos = world.draw(list(range(USERS)), [0] * USERS, world.picture_size)
        vectors = model.synthesize(world.encoder(photos))
    switching = StableDiffusionPipeline.from_pretrained(lorasynth.base_model("portraits"))
    switching.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        for user, vector in enumerate(vectors):
            file = LoRA(layout, vector).save(Path(folder) / f"{user}.safetensors", dtype=torch.float32)
            switching.load_lora_weights(folder, weight_name=file.name, adapter_name=f"user{user}")
    noise = noise_on_cpu(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size, seed=0)

    def together() -> torch.Tensor:
        return render(world.pipe, [prompt], layout, vectors, chunk=USERS)[:, 0]

    def one_by_one() -> torch.Tensor:
        drawn = []
        for user in range(USERS):
            switching.set_adapters(f"user{user}")
            call = {"num_inference_steps": 20, "guidance_scale": 2.0, "latents": noise, "output_type": "pt"}
            drawn.append(switching(prompt, **call).images)
        return torch.cat(drawn)

    difference = (together() - one_by_one()).abs().max().item()
    print(f"largest difference of a pixel: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("expected the same pictures from both")
    compare("serving_8_users", together, one_by_one, per_ours=USERS, per_other=USERS)


if __name__ == "__main__":
    main()
