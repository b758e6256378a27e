"""A bank on every family is PEFT's adapters one at a time, with checkpointing too, and learns by the loss that diffusers has."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from lorasynth.base import Photos, denoising_loss, encode_photos
from lorasynth.base.opening import as_base
from lorasynth.lora.bank import attached
from lorasynth.lora.factors import LoRA
from lorasynth.zoo.adapt import AdaptConfig, adapt
from lorasynth.zoo.initialisation import random_init

from ..tiny_pipelines import SIZE, pipeline

ROWS = 2  # photos of each subject


@pytest.fixture
def photos(base):
    """Of a dark and a bright subject, two photos each, with captions of their own."""
    pictures = 0.3 * torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    pictures[ROWS:] += 0.7
    captions = ["a photo of sks person", "a painting", "a photo of sks person", "a person in the garden"]
    return encode_photos(base, pictures, captions, ROWS)


def sample_of(base, photos):
    """What a step of two subjects is: latents, prompts, noise and numbers of its levels."""
    x, prompts, _ = photos.batch(torch.arange(2)[:, None], torch.arange(ROWS).expand(2, -1))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).to(x.dtype)
    return x, prompts, noise, torch.tensor([80, 500, 300, 950])


def vectors_of(layout):
    return torch.stack([LoRA.random(layout, seed=seed, std=0.1).vector for seed in range(2)])


def gradients(base, layout, photos, *, backward_inside=False):
    """Of each LoRA's mean loss, by vectors that are attached."""
    vectors = vectors_of(layout).to(photos.latents.dtype).requires_grad_()
    x, prompts, noise, numbers = sample_of(base, photos)
    with attached(base.denoiser, layout, vectors):
        loss = denoising_loss(base, x, noise, base.schedule.row(numbers), prompts).view(2, ROWS).mean(1).sum()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    return vectors.grad


def diffusers_loss(base, x, prompts, noise, numbers):
    """The mean loss of diffusers' training scripts."""
    scheduler = base.pipe.scheduler.from_config(base.pipe.scheduler.config)  # one that has drawn nothing yet
    level = base.schedule.row(numbers)
    if base.schedule.prediction == "flow":
        noisy, target = scheduler.scale_noise(x, level.time, noise), noise - x
    else:
        noisy = scheduler.add_noise(x, noise, numbers)
        target = noise if base.schedule.prediction == "epsilon" else scheduler.get_velocity(x, noise, numbers)
    return (base.predict(noisy, level, prompts) - target).square().mean()


def in_float64(base, photos):
    """The same without float32's rounding."""
    base = copy.deepcopy(base)
    base.denoiser.double()
    prompts = photos.prompts.map(lambda x: x.double())
    return base, replace(photos, latents=photos.latents.double(), prompts=prompts)


@pytest.mark.slow
def test_gradients_are_pefts_one_at_a_time(base, photos):
    base, photos = in_float64(base, photos)
    layout = base.layout(2)
    ours = gradients(base, layout, photos)
    x, prompts, noise, numbers = sample_of(base, photos)
    for n, vector in enumerate(vectors_of(layout)):
        theirs = copy.deepcopy(base)
        names = [m.name for m in layout.modules]
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=names), theirs.denoiser)
        layers = dict(theirs.denoiser.named_modules())
        for name, (A, B) in layout.split(vector[None]).items():
            layers[name].lora_A["default"].weight.data = A[0].to(photos.latents.dtype)
            layers[name].lora_B["default"].weight.data = B[0].to(photos.latents.dtype)
        rows = slice(n * ROWS, (n + 1) * ROWS)
        diffusers_loss(theirs, x[rows], prompts[rows], noise[rows], numbers[rows]).backward()
        expected = layout.join({
            name: tuple(getattr(layers[name], which)["default"].weight.grad[None] for which in ("lora_A", "lora_B"))
            for name in names
        })[0]  # fmt: skip
        assert expected.abs().max() > 1e-4
        assert (ours[n] - expected).abs().max() < 1e-6 * expected.abs().max()


def test_checkpointing_changes_no_gradient(base, photos):
    """Nor does a backward pass while the vectors are attached."""
    layout = base.layout(2)
    plain = gradients(base, layout, photos)
    saving = as_base(pipeline(base.family), "saving", SIZE)
    saving.enable_gradient_checkpointing()
    for backward_inside in (True, False):
        torch.testing.assert_close(
            gradients(saving, layout, photos, backward_inside=backward_inside), plain, rtol=1e-4, atol=1e-7
        )
        assert not any(layer._forward_hooks for layer in saving.denoiser.modules())


@pytest.mark.slow
def test_training_lowers_the_loss_of_each_subject(base, photos):
    layout = base.layout(2)
    config = AdaptConfig(steps=12, batch_size=2, learning_rate=2e-2, adam_epsilon=1e-8, lora_A="each")
    trained = adapt(base, layout, random_init(layout, 0), photos, config)
    x, prompts, noise, numbers = sample_of(base, photos)

    @torch.no_grad()
    def losses(vectors):
        with attached(base.denoiser, layout, vectors):
            return denoising_loss(base, x, noise, base.schedule.row(numbers), prompts).view(2, ROWS).mean(1)

    assert (losses(trained) < losses(torch.zeros_like(trained))).all()


@pytest.mark.slow
def test_bank_trains_on_weights_of_half_precision(bases):
    base = as_base(pipeline("sd15").to(torch.bfloat16), "half", SIZE)
    base.pipe.vae.float()
    photos = encode_photos(base, torch.rand(2, 3, SIZE, SIZE), ["a photo", "a painting"], 1)
    layout = base.layout(2)
    losses = []
    config = AdaptConfig(steps=10, batch_size=2, learning_rate=2e-2, adam_epsilon=1e-8, lora_A="each")
    vectors = adapt(base, layout, random_init(layout, 0), photos, config, on_step=lambda _, loss: losses.append(loss))
    assert vectors.dtype == torch.float32
    assert sum(losses[-3:]) < sum(losses[:3])


def test_mask_leaves_the_rest_of_a_photo_out(bases):
    base = bases("sd15")
    pictures = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    photos = encode_photos(base, pictures, ["a photo"], 1, mask)
    assert isinstance(photos, Photos)
    x, prompts, masks = photos.batch(torch.tensor([[0]]), torch.tensor([[0]]))
    assert masks[0, 0].tolist() == [[1.0] * 4 + [0.0] * 4] * 8
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    level = base.schedule.row(torch.tensor([400]))
    error = (base.predict(base.schedule.noisy(x, noise, level), level, prompts) - noise).square()
    loss = denoising_loss(base, x, noise, level, prompts, masks)
    torch.testing.assert_close(loss, error[..., :4].mean((1, 2, 3)))
    whole = denoising_loss(base, x, noise, level, prompts, torch.ones_like(masks))
    torch.testing.assert_close(whole, denoising_loss(base, x, noise, level, prompts))
    assert denoising_loss(base, x, noise, level, prompts, torch.zeros_like(masks)).item() == 0
