"""Real bases at their true shape with random weights: what a CPU can check of them.

    python benchmarks/true_shape.py            # Stable Diffusion 1.5, pictures of 64 pixels
    python benchmarks/true_shape.py --walk     # the same from photographs to training through the base, a few steps of each
    python benchmarks/true_shape.py --meta     # SD 1.5, SDXL, SD 3, FLUX and AuraFlow on the meta device, at their usual sizes
    python benchmarks/true_shape.py --memory   # of the same, what a step keeps, with gradient checkpointing and without

The first: gradients of a bank of two against PEFT's adapters one at a time, for epsilon-prediction; seconds and peak memory of a
step with gradient checkpointing and without; what the gradient is worth with it. The second: `zoo build` and `train end-to-end`
by the recipe sd15_tiny, each with its seconds and peak memory. The third: parameters, the usual LoRA's modules, and the
operations of a training step of one picture. The fourth: the largest sum of tensors that are alive in such a step, in bfloat16,
beside weights. Of the third and the fourth no number is computed.
"""

import argparse
import copy
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from _bare import BareBase, text
from diffusers import (
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, inject_adapter_in_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from lorasynth.base import Schedule, denoising_loss
from lorasynth.lora.bank import attached
from lorasynth.lora.batched import checkpointed
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.lora.presets import ATTENTION, JOINT_ATTENTION
from lorasynth.worlds.text import MAX_TOKENS, build_tokenizer
from lorasynth.zoo.module_sets import group_of

SIDE = 8  # of latents: 64 pixels
SCHEDULER = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
    steps_offset=1, prediction_type="epsilon",
)  # fmt: skip
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Latents, noise, timesteps and text states of two rows."""


def peft_gradient(unet: UNet2DConditionModel, layout: Layout, vector: torch.Tensor, given: Given) -> torch.Tensor:
    """By PEFT and diffusers alone: one LoRA on one row, the mean squared error of the noise."""
    x, noise, t, states = given
    inject_adapter_in_model(LoraConfig(r=1, lora_alpha=1, target_modules=list(ATTENTION)), unet)
    layers = dict(unet.named_modules())
    for name, factors in layout.split(vector[None]).items():
        for which, factor in zip(("lora_A", "lora_B"), factors, strict=True):
            getattr(layers[name], which)["default"].weight.data = factor[0].clone()
    answer = unet(SCHEDULER.add_noise(x, noise, t), t, states).sample
    (answer - noise).square().mean().backward()
    return layout.join({
        m.name: tuple(getattr(layers[m.name], which)["default"].weight.grad[None] for which in ("lora_A", "lora_B"))
        for m in layout.modules
    })[0]  # fmt: skip


def bank_gradient(base: BareBase, layout: Layout, vectors: torch.Tensor, given: Given) -> torch.Tensor:
    """Of two LoRAs in one pass."""
    x, noise, t, states = given
    learned = vectors.clone().requires_grad_()
    with attached(base.denoiser, layout, learned):
        loss = denoising_loss(base, x, noise, base.schedule.row(t), text(states)).sum()
    loss.backward()
    return learned.grad


def memory() -> float:
    """The process's largest memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def sd15() -> None:
    """Compare, and print what a step takes."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).requires_grad_(False).eval()
    layout = Layout.from_model(unet, ATTENTION, 1, base="sd15")
    vectors = torch.stack([LoRA.random(layout, seed=seed, std=0.05).vector for seed in range(2)])
    x, noise = torch.randn(2, 2, 4, SIDE, SIDE)
    given = (x, noise, torch.tensor([250, 700]), torch.randn(2, 77, 768))
    base = BareBase(unet, Schedule.of(SCHEDULER))
    print(f"{sum(p.numel() for p in unet.parameters()):,} parameters, {len(layout.modules)} modules, {memory():.1f} GB")
    unet.enable_gradient_checkpointing(checkpointed)
    found = {}
    for name in ("checkpointed", "plain"):  # what takes less memory first
        start = time.process_time()
        found[name] = bank_gradient(base, layout, vectors, given)
        print(f"{name}: {time.process_time() - start:.1f} CPU seconds a step of two, {memory():.2f} GB", flush=True)
        unet.disable_gradient_checkpointing()
    largest = found["plain"].abs().max()
    print(f"checkpointing changes the gradient by {(found['plain'] - found['checkpointed']).abs().max() / largest:.1e}")
    for n, vector in enumerate(vectors):
        row = tuple(part[n : n + 1] for part in given)
        theirs = peft_gradient(copy.deepcopy(unet), layout, vector, row)
        print(f"LoRA {n}: PEFT's gradient is {(found['plain'][n] - theirs).abs().max() / largest:.1e} away", flush=True)


def save_base(folder: Path) -> None:
    """Stable Diffusion 1.5's networks at their true shapes, but for words, of which the text encoder knows few."""
    tokenizer = build_tokenizer(["a", "photo", "of", "sks", "person"])
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=SCHEDULER, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def walk() -> None:
    """The verbs, one after the other, each in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        base, people, zoo, fit = (f"{place}/{name}" for name in ("base", "people", "zoo", "fit"))
        # In a process of its own: a child's largest memory counts from its parent's.
        maker = multiprocessing.get_context("spawn").Process(target=save_base, args=(Path(base),))
        maker.start()
        maker.join()
        photos = ["--data", people, "--encoder", "portraits", "--resolution", "64"]
        build = ["zoo", "build", "sd15_tiny", "--base", base, *photos, "--subjects", "6", "--steps", "3"]
        fitted = ["sd15_tiny", "--zoo", zoo, "--out", fit]
        for words in (
            ["data", "export", "portraits", "--people", "10", "--photos", "4", "--size", "64", "--out", people],
            [*build, "--out", zoo],
            ["train", "vae", *fitted],
            ["train", "prior", *fitted],
            ["train", "end-to-end", *fitted, *photos],
            [*build, "--gradient-checkpointing", "--out", f"{zoo}-checkpointed"],
        ):
            process = subprocess.Popen([sys.executable, "-m", "lorasynth", *words], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            print(
                f"{' '.join(words[:3])}{' checkpointed' * ('--gradient-checkpointing' in words)}: exit {status}, "
                f"{used.ru_utime + used.ru_stime:.0f} CPU seconds, {used.ru_maxrss / 2**20:.2f} GB at most",
                flush=True,
            )


def denoisers() -> dict[str, tuple[torch.nn.Module, tuple[str, ...], dict[str, torch.Tensor]]]:
    """The networks, the modules of their usual LoRA, and input for one picture of the usual size."""
    xl = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    sd3 = SD3Transformer2DModel(
        sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
    )
    extra = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
    return {
        "sd15": (
            UNet2DConditionModel(sample_size=64, cross_attention_dim=768), ATTENTION,
            {"sample": torch.randn(1, 4, 64, 64), "encoder_hidden_states": torch.randn(1, 77, 768)},
        ),
        "sdxl": (
            xl, ATTENTION, {
                "sample": torch.randn(1, 4, 128, 128), "encoder_hidden_states": torch.randn(1, 77, 2048),
                "added_cond_kwargs": extra,
            },
        ),
        "sd3": (
            sd3, JOINT_ATTENTION, {
                "hidden_states": torch.randn(1, 16, 128, 128), "encoder_hidden_states": torch.randn(1, 333, 4096),
                "pooled_projections": torch.randn(1, 2048),
            },
        ),
        "flux": (
            FluxTransformer2DModel(guidance_embeds=True), ATTENTION, {
                "hidden_states": torch.randn(1, 4096, 64), "encoder_hidden_states": torch.randn(1, 512, 4096),
                "pooled_projections": torch.randn(1, 768), "img_ids": torch.zeros(4096, 3), "txt_ids": torch.zeros(512, 3),
                "guidance": torch.ones(1),
            },
        ),
        "auraflow": (
            AuraFlowTransformer2DModel(pos_embed_max_size=4096), JOINT_ATTENTION,
            {"hidden_states": torch.randn(1, 4, 128, 128), "encoder_hidden_states": torch.randn(1, 256, 2048)},
        ),
    }  # fmt: skip


def meta() -> None:
    """Count, without a number computed. The gradient goes through all of a network to its input, as through a LoRA's."""
    with torch.device("meta"):
        for family, (network, targets, given) in denoisers().items():
            network.requires_grad_(False).eval()
            first = next(iter(given))
            given[first] = given[first].requires_grad_()
            with FlopCounterMode(display=False) as counter:
                network(**given, timestep=torch.ones(1), return_dict=False)[0].sum().backward()
            layout = Layout.from_model(network, targets, 1, base=family)
            groups = Counter(f"{group_of(m.name)}, {m.in_features} to {m.out_features}" for m in layout.modules)
            print(
                f"{family}: {sum(p.numel() for p in network.parameters()):,} parameters, {len(layout.modules)} modules, "
                f"{layout.num_parameters:,} numbers at rank 1, {counter.get_total_flops() / 1e12:.2f} TFLOP a picture and step"
            )
            print("    " + "; ".join(f"{group}: {count}" for group, count in groups.items()), flush=True)


class Alive(TorchDispatchMode):
    """Bytes of tensors that are alive, and the most that ever were."""

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.now, self.most, self._seen = 0, 0, {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._seen.discard(key)


def memory_of_a_step() -> None:
    """Count what a step of one picture keeps, with the LoRA at rank 1 attached."""
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        for family, (network, targets, given) in denoisers().items():
            network.requires_grad_(False).eval()
            layout, found = Layout.from_model(network, targets, 1, base=family), {}
            for name in ("plain", "checkpointed"):
                if name == "checkpointed":
                    network.enable_gradient_checkpointing(checkpointed)
                vector = torch.zeros(1, layout.num_parameters, requires_grad=True)
                known = [*network.parameters(), *network.buffers(), vector]
                with Alive(known) as alive, attached(network, layout, vector):
                    answer = network(**given, timestep=torch.ones(1), return_dict=False)[0]
                    answer.float().square().mean().backward()
                found[name] = alive.most / 1e9
            ratio = found["checkpointed"] / found["plain"]
            print(
                f"{family}: {found['plain']:.3f} GB, {found['checkpointed']:.3f} with checkpointing ({ratio:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta", action="store_true", help="Count on the meta device.")
    parser.add_argument("--walk", action="store_true", help="From photographs to training through the base.")
    parser.add_argument("--memory", action="store_true", help="Count what a step keeps.")
    asked = parser.parse_args()
    (meta if asked.meta else walk if asked.walk else memory_of_a_step if asked.memory else sd15)()
