"""Prior preservation: pictures of a subject's class, which the base draws itself, keep a LoRA from changing everybody else."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from lorasynth.base import Base, Photos
from lorasynth.base.sampling import sample, usual_guidance
from lorasynth.devices import noise_on_cpu
from lorasynth.storage.files import read_tensors, write_tensors
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.outputs import make_folder
from lorasynth.workers.locks import locked

_STEPS, _AT_ONCE = 50, 4


@dataclass(frozen=True, kw_only=True)
class Preservation:
    """DreamBooth's prior preservation, in the words of diffusers' training scripts."""

    class_prompt: str  # such as "a photo of a person"
    num_class_images: int = 100
    prior_loss_weight: float = 1.0


def class_photos(base: Base, settings: Preservation, folder: Path) -> Photos:
    """The class's pictures as the base draws them, once: they are kept in a folder, and other processes wait for them.

    Differs from diffusers: latents are taken as they were sampled, in place of pictures that are encoded again.

    Args:
        base: without LoRAs.
        settings: what is drawn, and how much it counts.
        folder: where a folder of them is made, whose name says what they depend on.
    """
    scale, shape = usual_guidance(base), base.latent_shape
    said = [base.name, settings.class_prompt, settings.num_class_images, _STEPS, scale, shape]
    weights = fingerprint(*base.denoiser.parameters())
    key = hashlib.sha256(json.dumps([*said, weights]).encode()).hexdigest()[:16]
    file, prompt = folder / f"class-{key}" / "latents.safetensors", base.prompts([settings.class_prompt])
    make_folder(file.parent)
    with locked(file.parent):
        if not file.exists():
            noise = noise_on_cpu(settings.num_class_images, *shape, seed=0)
            drawn = [
                sample(
                    base,
                    x,
                    prompt[torch.zeros(len(x), dtype=torch.long)],
                    num_inference_steps=_STEPS,
                    guidance_scale=scale,
                )
                for x in noise.split(_AT_ONCE)
            ]
            write_tensors(file, {"latents": torch.cat(drawn)})
    latents = read_tensors(file)[0]["latents"].to(torch.get_default_device())[None]
    caption = torch.zeros(1, settings.num_class_images, dtype=torch.long)
    return Photos(latents=latents, prompts=prompt, caption=caption, loss_weight=settings.prior_loss_weight)
