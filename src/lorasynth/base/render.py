"""Pictures of many LoRAs at once: the sampler of the base, with an AdapterBank in the batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.base.base import Base
from lorasynth.base.sampling import sample
from lorasynth.devices import noise_on_cpu
from lorasynth.errors import UsageError
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout


@torch.no_grad()
def render(
    base: Base,
    prompts: Sequence[str],
    layout: Layout,
    vectors: Float[Tensor, "N P"],
    *,
    seed: int = 0,
    guidance_scale: float = 2.0,
    num_inference_steps: int = 20,
    negative: Float[Tensor, "P"] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "N K 3 H W"]:
    """K pictures with each of N LoRAs, one for each prompt.

    Equals running the pipeline once a LoRA: picture k starts from the same noise whatever the LoRA.

    Args:
        base: whose pictures.
        prompts: K prompts.
        layout: of the LoRAs.
        vectors: N LoRAs; zeros draw with the base model itself.
        seed: of the starting noise.
        guidance_scale: classifier-free guidance; 1 is none.
        num_inference_steps: sampler steps.
        negative: a LoRA for the branch without the prompt, which guidance leads away from; by default it is the LoRA itself.
            With zeros, that is with the base alone, guidance draws more of the subject.
        chunk: LoRAs in one batch; by default as many as make 16 latents of 8 x 8 a prompt, on a GPU 128.

    Returns:
        RGB in [0, 1].

    Raises:
        UsageError: a ``negative`` where there is no such branch.
    """
    if negative is not None and (guidance_scale == 1 or base.embeds_guidance):
        raise UsageError(
            f"expected no negative LoRA where one pass draws, got one at guidance scale {guidance_scale:g} for a base of family "
            f"{base.family!r}; it needs a scale other than 1, and a base that draws with and without the prompt"
        )
    encoded, noise = base.prompts(prompts), noise_on_cpu(len(prompts), *base.latent_shape, seed=seed)
    pictures = []
    for part in vectors.split(chunk or loras_at_once(base)):
        n = len(part)
        # In the sampler's batch a LoRA's rows with the prompt come first, then as many without: for a bank, two adapters.
        adapters = part if negative is None else torch.stack([part, negative.expand_as(part)], 1).flatten(0, 1)
        with AdapterBank(base.denoiser, layout, len(adapters), adapters).attached():
            x = sample(
                base, noise.repeat(n, 1, 1, 1), encoded[torch.arange(len(prompts)).repeat(n)],
                num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, num_adapters=n,
            )  # fmt: skip
        pictures.append(base.decode(x).unflatten(0, (n, -1)))
    return torch.cat(pictures)


def loras_at_once(base: Base) -> int:
    """LoRAs in a batch: fewer where latents are larger than the 8 x 8 of drawn worlds."""
    _, height, width = base.latent_shape
    most = 16 if torch.get_default_device().type == "cpu" else 128
    return max(1, most * 64 // (height * width))
