"""What a prior learns through the base shows on people it has not seen, and nothing but the prior changes."""

import pytest
import torch

from lorasynth.canonical import Canonicalizer
from lorasynth.encoders.guard import WorldGuard
from lorasynth.errors import UsageError
from lorasynth.prior import Denoiser, DiffusionPrior, RidgePrior
from lorasynth.refining import RefineConfig, refine
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import principal_stem
from lorasynth.worlds.world import get_world
from lorasynth.zoo.build import random_init

Z = 6


@pytest.fixture(scope="module")
def world():
    return get_world("portraits")


@pytest.fixture
def model(world):
    """A synthesizer of untrained parts around a zoo of noise, whose LoRAs spoil every picture: there is much to learn."""
    layout = world.layout(1)
    g = torch.Generator().manual_seed(0)
    init = random_init(layout, 0)
    vectors = init + torch.zeros(12, layout.num_parameters)
    for _, part in layout.slices.values():
        vectors[:, part] = torch.randn(12, part.stop - part.start, generator=g)
        vectors[:, part] -= vectors[:, part].mean(0)
    form = Canonicalizer.fit(vectors, layout, "anchored", init)
    x = form.apply(vectors)
    torch.manual_seed(0)
    vae = LoRAVAE.from_stem(x, principal_stem(x, 8, form.blocks, 10**6), Z, hidden_dim=8).eval().requires_grad_(False)
    weight = 0.3 * torch.randn(Z, 512, generator=g)
    prior = DiffusionPrior(Denoiser(Z, width=16, depth=1), RidgePrior(weight, torch.full((Z,), 1.5))).eval()
    return Synthesizer(
        base="portraits", encoder=world.encoder, guard=WorldGuard.fit(world.draw(list(range(40)), [0] * 40, 64)),
        canonicalizer=form, vae=vae, priors={"adalora": prior, "ridge": prior.centre},
    )  # fmt: skip


def config(steps, **changes):
    loop = LoopConfig(
        steps=steps, learning_rate=3e-2, warmup_steps=2, weight_decay=0.0, ema_decay=0.8, validate_every=5,
        checkpoint_every_s=1e9,
    )  # fmt: skip
    return RefineConfig(**{"people_a_step": 4, "validation_people": 4, "loop": loop} | changes)


def test_held_people_are_denoised_better_and_only_the_prior_changes(world, model):
    frozen = [*world.pipe.unet.parameters(), *model.vae.state_dict().values(), model.canonicalizer.mean]
    before = [t.clone() for t in frozen]
    prior = model.priors["adalora"]
    old = {n: t.clone() for n, t in prior.state_dict().items()}
    metrics = refine(world, model, "adalora", config(20))
    assert metrics["loss_after"] < metrics["loss_before"] - 0.002
    assert metrics["best_step"] > 0
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))
    changed = {n for n, t in prior.state_dict().items() if not torch.equal(t, old[n])}
    assert {"centre.weight", "centre.bias", "denoiser.leave.weight"} <= changed
    assert not any(p.requires_grad for p in prior.parameters())
    # The settings are those that the prior was trained with.
    assert model.settings["adalora"] == {
        "temperature": 0.0, "num_inference_steps": 8, "guidance_scale": 1.0, "scale": 1.5
    }  # fmt: skip


def test_the_loss_is_that_of_the_loras_that_a_user_would_get(world, model):
    """With no step taken: by the synthesizer's own LoRAs, one person at a time, attached by diffusers."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.training import step_generator
    from lorasynth.worlds.base import stratified_timesteps, v_loss
    from lorasynth.worlds.portraits.factors import Split, persons_of

    metrics = refine(world, model, "adalora", config(0))
    assert metrics["loss_after"] == metrics["loss_before"]
    held = persons_of(Split.VALIDATION, 4, offset=5_000)
    vectors = model.synthesize(world.embeddings(held, 1)[:, 0], prior="adalora")
    photos = world.photos(held, 4, first=12)
    unet, total = world.pipe.unet, 0.0
    for k in range(2):
        g = step_generator(1, k)
        noise = torch.randn(16, *photos.latents.shape[2:], generator=g).unflatten(0, (4, 4))
        timesteps = stratified_timesteps(16, 1000, g).unflatten(0, (4, 4))
        for i, vector in enumerate(vectors):
            lora = LoRA(model.canonicalizer.layout, vector)
            lora.attach(unet, "me")
            with torch.no_grad():
                losses = v_loss(unet, world.pipe.scheduler, photos.latents[i], photos.text[i], noise[i], timesteps[i])
            total += losses.mean().item() / 8
            lora.detach(unet, "me")
    assert metrics["loss_before"] == pytest.approx(total, rel=1e-4)


def test_a_run_that_was_stopped_ends_with_the_same_weights(world, model, tmp_path, stopped_in_step):
    start = {n: t.clone() for n, t in model.priors["adalora"].state_dict().items()}
    refine(world, model, "adalora", config(6))
    whole = {n: t.clone() for n, t in model.priors["adalora"].state_dict().items()}
    model.priors["adalora"].load_state_dict(start)
    with stopped_in_step(4):
        refine(world, model, "adalora", config(6), run_dir=tmp_path)
    model.priors["adalora"].load_state_dict(start)
    refine(world, model, "adalora", config(6), run_dir=tmp_path)
    assert all(torch.equal(t, whole[n]) for n, t in model.priors["adalora"].state_dict().items())


def test_what_is_not_a_diffusion_prior_is_refused(world, model):
    with pytest.raises(UsageError, match="expected a diffusion prior to refine, got RidgePrior for 'ridge'"):
        refine(world, model, "ridge", config(1))
