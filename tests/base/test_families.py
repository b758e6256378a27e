"""Each family as a base says, draws and encodes what diffusers' own pipeline does."""

from inspect import signature

import pytest
import torch

from lorasynth.base import opening, render, sample
from lorasynth.base.flux import Flux
from lorasynth.base.opening import as_base
from lorasynth.base.sampling import usual_guidance
from lorasynth.base.sd import StableDiffusion
from lorasynth.base.sd3 import StableDiffusion3
from lorasynth.base.sdxl import StableDiffusionXL
from lorasynth.errors import ModelError, UsageError
from lorasynth.lora import base_models
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.lora.presets import ATTENTION, JOINT_ATTENTION

from ..tiny_pipelines import FAMILIES, SIZE, flux, pipeline, sd15, sdxl

PROMPTS = ["a photo of sks person", "a painting of sks person in the garden"]


def pipeline_pictures(base, noise, guidance_scale, steps):
    """By diffusers, from the same noise."""
    pipe, more = base.pipe, {}
    if base.family == "flux":
        n, c, h, w = noise.shape
        noise = pipe._pack_latents(noise, n, c, h, w)
        if not base.embeds_guidance and guidance_scale != 1:
            more = {"true_cfg_scale": guidance_scale, "negative_prompt": [""] * n}
    return pipe(
        PROMPTS, latents=noise, num_inference_steps=steps, guidance_scale=guidance_scale, height=SIZE, width=SIZE,
        output_type="pt", **more,
    ).images  # fmt: skip


@pytest.mark.parametrize(("guidance_scale", "steps"), [(1.0, 3), (3.5, 7)])
def test_picture_is_the_pipelines(base, guidance_scale, steps):
    noise = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    theirs = pipeline_pictures(base, noise, guidance_scale, steps)
    latents = sample(base, noise, base.prompts(PROMPTS), num_inference_steps=steps, guidance_scale=guidance_scale)
    ours = base.decode(latents)
    assert ours.shape == (2, 3, SIZE, SIZE)
    assert ours.std() > 0.01
    assert (ours[0] - ours[1]).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_picture_of_undistilled_flux_is_the_pipelines(guidance_scale):
    torch.manual_seed(0)
    base = as_base(flux(guidance_embeds=False), "schnell", SIZE)
    assert not base.embeds_guidance
    noise = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    theirs = pipeline_pictures(base, noise, guidance_scale, 3)
    ours = sample(base, noise, base.prompts(PROMPTS), num_inference_steps=3, guidance_scale=guidance_scale)
    torch.testing.assert_close(base.decode(ours), theirs, rtol=0, atol=2e-4)


def test_sdxl_without_forced_zeros_leads_away_from_empty_caption():
    torch.manual_seed(0)
    pipe = sdxl()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    pipe.set_progress_bar_config(disable=True)
    base = as_base(pipe, "sdxl")
    noise = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    theirs = pipeline_pictures(base, noise, 4.0, 3)
    ours = sample(base, noise, base.prompts(PROMPTS), num_inference_steps=3, guidance_scale=4.0)
    torch.testing.assert_close(base.decode(ours), theirs, rtol=0, atol=2e-4)


def test_picture_of_a_bank_is_the_pipelines_with_the_loras_file(base, tmp_path):
    """What a user does: plain diffusers loads the file, and draws."""
    layout = base.layout(2)
    vectors = torch.stack([LoRA.random(layout, seed=seed, std=0.1).vector for seed in range(3)])
    ours = render(base, PROMPTS, layout, vectors, seed=5, guidance_scale=2.0, num_inference_steps=3, chunk=2)
    noise = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(5))
    plain = pipeline_pictures(base, noise, 2.0, 3)
    for n in (0, 2):
        file = LoRA(layout, vectors[n]).save(tmp_path / f"{n}.safetensors", "diffusers")
        base.pipe.load_lora_weights(tmp_path, weight_name=file.name)
        try:
            theirs = pipeline_pictures(base, noise, 2.0, 3)
        finally:
            base.pipe.unload_lora_weights()
        torch.testing.assert_close(ours[n], theirs, rtol=0, atol=5e-4)
        assert (ours[n] - plain).abs().max() > 5e-3


def test_latents_are_the_vaes_shifted_and_scaled(base):
    pictures = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    latents, vae = base.encode(pictures), base.pipe.vae
    shift = vae.config.shift_factor or 0.0
    torch.testing.assert_close(
        latents, (vae.encode(pictures * 2 - 1).latent_dist.mode() - shift) * vae.config.scaling_factor
    )
    assert latents.shape[1:] == base.latent_shape
    theirs = base.pipe.image_processor.postprocess(
        vae.decode(latents / vae.config.scaling_factor + shift).sample, output_type="pt"
    )
    torch.testing.assert_close(base.decode(latents), theirs)


def test_family_says_its_name_and_its_usual_modules(base):
    names = dict.fromkeys(FAMILIES, ATTENTION) | dict.fromkeys(("sd3", "auraflow"), JOINT_ATTENTION)
    layout = base.layout(2)
    assert (base.name, layout.base) == (f"tiny-{base.family}", base.family)
    assert {m.name for m in layout.modules} == {
        name for name, _ in base.denoiser.named_modules() if name.endswith(tuple("." + t for t in names[base.family]))
    }
    assert {m.name for m in base.layout(1, ["to_q"]).modules} < {m.name for m in layout.modules}


def test_every_pipeline_that_opens_has_a_tiny_one(bases):
    assert {type(bases(family).pipe).__name__ for family in FAMILIES} == opening.FAMILIES.keys()


def test_usual_guidance_is_the_pipelines_default(base):
    assert usual_guidance(base) == signature(base.pipe.__call__).parameters["guidance_scale"].default


@pytest.mark.parametrize(("preset", "kind"), [
    ("sd15-attn", StableDiffusion), ("sdxl-attn", StableDiffusionXL), ("sd3", StableDiffusion3), ("flux", Flux),
])  # fmt: skip
def test_usual_modules_are_the_presets_at_true_shape(preset, kind):
    """So LoRAs that are made on a base and LoRAs that are imported for it are of one layout."""
    layout = Layout.preset(preset, 4)
    network = next(iter(base_models.MODELS[layout.base].values()))()
    assert Layout.from_model(network, kind.target_modules, 4, base=layout.base).hash == layout.hash


def test_base_is_frozen(base):
    networks = [part for part in base.pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(networks) >= 3
    assert not any(p.requires_grad for part in networks for p in part.parameters())
    assert not any(part.training for part in networks)


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_half_precision_answers_nearly_the_same_in_float32(family, bases):
    base, half = bases(family), as_base(pipeline(family).to(torch.bfloat16), "half", SIZE)
    x = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    # NOTE: FLUX's transformer is told the time in its weights' precision: at these it is exact.
    level = base.schedule.row(torch.tensor([249, 499]))
    exact, near = (b.predict(x, level, base.prompts(PROMPTS)) for b in (base, half))
    assert near.dtype == torch.float32
    assert 0 < (near - exact).norm() / exact.norm() < 0.05


def test_playgrounds_vae_is_scaled_by_channel():
    torch.manual_seed(0)
    pipe = sdxl()
    mean, std = [0.1, -0.2, 0.3, 0.4], [2.0, 3.0, 4.0, 5.0]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    base = as_base(pipe, "playground")
    pictures = torch.rand(1, 3, SIZE, SIZE)
    modes = pipe.vae.encode(pictures * 2 - 1).latent_dist.mode()
    scale = pipe.vae.config.scaling_factor
    for c in range(4):
        torch.testing.assert_close(base.encode(pictures)[:, c], (modes[:, c] - mean[c]) * scale / std[c])


def test_model_with_more_channels_than_its_vae_is_refused():
    with pytest.raises(ModelError, match="expected a denoiser of the VAE's 4 channels, got one of 9, as inpainting"):
        as_base(sd15(in_channels=9), "inpainting")


def test_distilled_unet_is_refused():
    with pytest.raises(ModelError, match="expected a model that was not distilled"):
        as_base(sd15(time_cond_proj_dim=8), "lcm")


@pytest.mark.parametrize(("family", "size", "words"), [
    ("sd15", 36, "multiples of 8 pixels for x, got 36"), ("sd15", 4, "multiples of 8 pixels for x, got 4"),
    ("sd15", 0, "multiples of 8 pixels for x, got 0"),
    ("flux", 40, "multiples of 16 pixels for x, got 40"), ("sd3", 80, "resolution up to 64 for x, got 80"),
    ("auraflow", 80, "resolution up to 64 for x, got 80"),
])  # fmt: skip
def test_resolution_that_a_base_cannot_take_is_refused(family, size, words):
    with pytest.raises(UsageError, match=words):
        as_base(pipeline(family), "x", size)


@pytest.mark.parametrize(("family", "size"), [("sd15", SIZE), ("sdxl", SIZE), ("sd3", SIZE), ("flux", 512),
    ("auraflow", SIZE),
])  # fmt: skip
def test_usual_resolution_is_what_diffusers_draws(family, size):
    """FLUX's is in no configuration: diffusers draws 128 x 128 latents."""
    assert as_base(pipeline(family), "x").picture_size == size


def test_unet_of_two_sample_sizes_is_drawn_square():
    assert as_base(sd15(sample_size=[8, 8]), "x").picture_size == SIZE


def test_resolution_is_taken():
    base = as_base(pipeline("flux"), "x", 48)
    assert (base.picture_size, base.latent_shape) == (48, (4, 12, 12))
    noise = torch.randn(1, *base.latent_shape)
    theirs = base.pipe(
        PROMPTS[:1], latents=base.pipe._pack_latents(noise, 1, 4, 12, 12), num_inference_steps=3, guidance_scale=1.0,
        height=48, width=48, output_type="pt",
    ).images  # fmt: skip
    ours = sample(base, noise, base.prompts(PROMPTS[:1]), num_inference_steps=3)
    torch.testing.assert_close(base.decode(ours), theirs, rtol=0, atol=2e-4)
