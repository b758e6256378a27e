"""Prior preservation: DreamBooth's loss by hand, and class pictures that are the pipeline's own and drawn once."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lorasynth.base import Photos
from lorasynth.base.opening import as_base
from lorasynth.devices import noise_on_cpu
from lorasynth.lora.bank import attached
from lorasynth.lora.factors import LoRA
from lorasynth.zoo.adapt import CLASS_SEED, AdaptConfig, draw_samples, subject_losses
from lorasynth.zoo.preservation import Preservation, class_photos

from ..tiny_pipelines import SIZE, pipeline

SETTINGS = Preservation(class_prompt="a photo of a person", num_class_images=3, prior_loss_weight=0.7)


@pytest.fixture(scope="module")
def base():
    return as_base(pipeline("sd15"), "tiny", SIZE)


@pytest.fixture(scope="module")
def others(base, tmp_path_factory):
    return class_photos(base, SETTINGS, tmp_path_factory.mktemp("prepared"))


def test_loss_is_dreambooths(base, others):
    latents = torch.randn(2, 4, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    photos = Photos(
        latents=latents, prompts=base.prompts(["a photo of sks person"]), caption=torch.zeros(2, 4, dtype=torch.long)
    )
    layout, config, step = base.layout(2), AdaptConfig(batch_size=2, seed=5), 3
    vectors = torch.stack([LoRA.random(layout, seed=seed, std=0.3).vector for seed in range(2)])

    def mean_squared_error(of, subject, seed):
        photo, noise, part = draw_samples(of, replace(config, seed=seed), step)
        t = (1_000 * part).long()
        states = of.prompts.tensors["encoder_hidden_states"].expand(len(t), -1, -1)
        noisy = base.pipe.scheduler.add_noise(of.latents[subject, photo], noise, t)
        return F.mse_loss(base.pipe.unet(noisy, t, states).sample, noise)

    expected = []
    with torch.no_grad():
        for subject, vector in enumerate(vectors):
            with attached(base.denoiser, layout, vector[None]):
                own = mean_squared_error(photos, subject, config.seed)
                expected.append(own + 0.7 * mean_squared_error(others, 0, config.seed + CLASS_SEED))
        with attached(base.denoiser, layout, vectors):
            plain = subject_losses(base, photos, torch.arange(2), config, step)
            photos = replace(photos, class_photos=others).subjects([0, 1])
            losses = subject_losses(base, photos, torch.arange(2), config, step)
    assert losses.tolist() == pytest.approx([float(loss) for loss in expected], rel=1e-5)
    assert (losses - plain).min() > 0.1


@pytest.mark.slow
def test_class_pictures_are_the_pipelines_own(base, others):
    noise = noise_on_cpu(3, *base.latent_shape, seed=0)
    drawn = base.pipe(
        [SETTINGS.class_prompt] * 3, latents=noise, num_inference_steps=50, guidance_scale=7.5, output_type="latent",
        height=SIZE, width=SIZE,
    ).images  # fmt: skip
    assert (others.latents[0] - drawn).abs().max() < 1e-3 * drawn.abs().max()


@pytest.mark.slow
def test_class_pictures_are_drawn_once(base, tmp_path, monkeypatch):
    few = replace(SETTINGS, num_class_images=1)
    first = class_photos(base, few, tmp_path)
    monkeypatch.setattr("lorasynth.zoo.preservation.sample", None)
    again = class_photos(base, replace(few, prior_loss_weight=2.0), tmp_path)
    assert torch.equal(again.latents, first.latents)
    assert (first.loss_weight, again.loss_weight) == (0.7, 2.0)
    with pytest.raises(TypeError, match="not callable"):
        class_photos(base, replace(few, class_prompt="a painting"), tmp_path)
