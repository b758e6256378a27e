"""What priors and VAE learn through the base shows on people they have not seen, and nothing else changes."""

import copy
import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from lorasynth.canonical import Canonicalizer
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.errors import CheckpointError, UsageError
from lorasynth.prior import Denoiser, DiffusionPrior, RidgePrior
from lorasynth.refining import (
    EndToEndConfig,
    Judge,
    RefineConfig,
    end_to_end,
    refine,
    train_critic,
)
from lorasynth.refining.training import _people
from lorasynth.storage.rows import Rows
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import Synthesizer
from lorasynth.training import LoopConfig, Processes, Share, launched
from lorasynth.vae import LoRAVAE
from lorasynth.vae.stem import principal_stem
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import get_world
from lorasynth.zoo.initialisation import random_init

Z = 6


@pytest.fixture(scope="module")
def world():
    return get_world("portraits")


@pytest.fixture(scope="module")
def critic(world):
    """Hardly trained: it looks at latents and says something about them."""
    few = RecogniserConfig(loss="arcface", steps=3, batch_size=8)
    return train_critic(DrawnSubjects(world), RefineConfig(critic=few, critic_people=8))


@pytest.fixture
def model(world):
    """A synthesizer of untrained parts around a zoo of noise, whose LoRAs spoil every picture: there is much to learn."""
    layout = world.base.layout(1)
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
        base="portraits", encoder=WorldEncoder(world),
        canonicalizer=form, vae=vae, priors={"adalora": prior, "ridge": prior.centre},
    )  # fmt: skip


def config(steps, **changes):
    loop = LoopConfig(
        steps=steps, learning_rate=3e-2, warmup_steps=2, weight_decay=0.0, ema_decay=0.8, validate_every=5,
        checkpoint_every_s=1e9,
    )  # fmt: skip
    return RefineConfig(**{"people_a_step": 4, "validation_people": 4, "loop": loop} | changes)


@pytest.mark.slow
def test_held_people_are_predicted_better_and_only_prior_changes(world, model, critic):
    frozen = [*world.base.denoiser.parameters(), *model.vae.state_dict().values(), *critic.state_dict().values()]
    before = [t.clone() for t in frozen]
    prior = model.priors["adalora"]
    old = {n: t.clone() for n, t in prior.state_dict().items()}
    metrics = refine(DrawnSubjects(world), model, "adalora", critic, config(20))
    assert metrics["loss_after"] < metrics["loss_before"] - 0.01
    assert metrics["best_step"] > 0
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))
    changed = {n for n, t in prior.state_dict().items() if not torch.equal(t, old[n])}
    assert {"centre.weight", "centre.bias", "denoiser.leave.weight"} <= changed
    assert not any(p.requires_grad for p in prior.parameters())
    # The settings are those that the prior was trained with.
    assert model.settings["adalora"] == {
        "temperature": 0.0, "num_inference_steps": 8, "guidance_scale": 1.0, "scale": 1.1
    }  # fmt: skip


@pytest.mark.parametrize("identity_weight", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
@pytest.mark.slow
def test_loss_is_that_of_the_loras_that_a_user_would_get(world, model, critic, identity_weight):
    """With no step taken: by the synthesizer's own LoRAs, one person at a time, on diffusers' own path."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.training import step_generator, stratified_uniform

    metrics = refine(DrawnSubjects(world), model, "adalora", critic, config(0, identity_weight=identity_weight))
    assert metrics["loss_after"] == metrics["loss_before"]
    held = persons_of(Role.STOPPING, 4)
    vectors = model.synthesize(world.embeddings(held, 1)[:, 0], prior="adalora")
    photos = world.photos(held, RefineConfig().critic_photos, first=12)
    unet, scheduler, total = world.base.pipe.unet, world.base.pipe.scheduler, 0.0
    text = photos.states(0).tensors["encoder_hidden_states"]
    scheduler.set_timesteps(1000)
    for k in range(4):
        g = step_generator(1, k)
        noise = torch.randn(4, *photos.latents.shape[2:], generator=g)
        timesteps = (1000 * (0.6 + 0.4 * stratified_uniform(4, g))).long()
        for i, vector in enumerate(vectors):
            lora = LoRA(model.canonicalizer.layout, vector)
            lora.attach(unet, "me")
            x, n, t = photos.latents[i, :1], noise[i : i + 1], timesteps[i : i + 1]
            noisy = scheduler.add_noise(x, n, t)
            with torch.no_grad():
                v = unet(noisy, t, encoder_hidden_states=text[i : i + 1], return_dict=False)[0]
                seen = critic(scheduler.step(v, t.item(), noisy).pred_original_sample)[0]
                person = torch.nn.functional.normalize(critic(photos.latents[i]).mean(0), dim=0)
            total += (v - scheduler.get_velocity(x, n, t)).square().mean().item()
            total += identity_weight * (1 - (seen @ person).item())
            lora.detach(unet, "me")
    assert metrics["loss_before"] == pytest.approx(total / 16, rel=1e-4)


@pytest.mark.slow
def test_what_is_drawn_is_what_a_user_would_get(world, model, critic):
    """The same with the sampler's own states: after some of diffusers' steps with the person's LoRA, and at all noise levels."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.training import stratified_uniform

    held = persons_of(Role.STOPPING, 3)
    vectors = model.synthesize(world.embeddings(held, 1)[:, 0], prior="adalora", temperature=0.0, num_inference_steps=8)
    photos = world.photos(held, RefineConfig().critic_photos)
    settings = config(0, identity_weight=0.7, states="drawn", drawing_steps=4)
    judge = Judge(world.base, model.canonicalizer.layout, critic, settings)
    loss = judge.loss(vectors, photos, Share(torch.Generator().manual_seed(3))).item()
    g = torch.Generator().manual_seed(3)
    start = torch.randn(3, *photos.latents.shape[2:], generator=g)
    taken = int(torch.randint(1, 4, (1,), generator=g))
    noise = torch.randn(start.shape, generator=g)
    timesteps = (1000 * stratified_uniform(3, g)).long()
    unet, scheduler, total = world.base.pipe.unet, world.base.pipe.scheduler, 0.0
    text = photos.states(0).tensors["encoder_hidden_states"]
    for i, vector in enumerate(vectors):
        LoRA(model.canonicalizer.layout, vector).attach(unet, "me")
        x, words = start[i : i + 1], text[i : i + 1]
        scheduler.set_timesteps(4)
        with torch.no_grad():
            for t in scheduler.timesteps[: taken + 1]:
                v = unet(x, t, encoder_hidden_states=words, return_dict=False)[0]
                step = scheduler.step(v, t, x)
                x = step.prev_sample
            person = torch.nn.functional.normalize(critic(photos.latents[i]).mean(0), dim=0)
            total += 0.7 * (1 - (critic(step.pred_original_sample)[0] @ person).item())
            clean, n, t = photos.latents[i, :1], noise[i : i + 1], timesteps[i : i + 1]
            v = unet(scheduler.add_noise(clean, n, t), t, encoder_hidden_states=words, return_dict=False)[0]
        total += (v - scheduler.get_velocity(clean, n, t)).square().mean().item()
        LoRA(model.canonicalizer.layout, vector).detach(unet, "me")
    assert loss == pytest.approx(total / 3, rel=1e-4)


@pytest.mark.slow
def test_training_by_what_is_drawn_lowers_its_loss(world, model, critic):
    metrics = refine(DrawnSubjects(world), model, "adalora", critic, config(12, states="drawn", drawing_steps=3))
    assert metrics["loss_after"] < metrics["loss_before"] - 0.01


def zoo_of(model, count=40):
    """Canonical vectors in two directions that the model's VAE knows nothing of."""
    g = torch.Generator().manual_seed(5)
    return torch.randn(count, 2, generator=g) @ torch.randn(2, model.canonicalizer.num_features, generator=g)


def last_config(steps, *, zoo_weight=0.1, **changes):
    """A direction of a stem has many small numbers: slower."""
    slow = replace(config(steps).loop, learning_rate=3e-3)
    through = config(steps, loop=slow, states="drawn", drawing_steps=3, **changes)
    return EndToEndConfig(through=through, zoo_weight=zoo_weight, zoo_batch=8)


@pytest.fixture
def later_is_better(monkeypatch):
    """An untrained critic knows nobody, and a few steps teach no faces: let the last weights be chosen."""
    from lorasynth.refining import training

    calls = iter(range(1000))
    monkeypatch.setattr(training, "likeness", lambda *_: next(calls) / 1000)


@pytest.mark.slow
def test_end_to_end_priors_and_vae_change_and_nothing_else(world, model, critic, later_is_better):
    model.priors["adanorm"] = copy.deepcopy(model.priors["adalora"])
    names = ["adalora", "adanorm"]
    frozen = [*world.base.denoiser.parameters(), *critic.state_dict().values(), model.canonicalizer.mean]
    before = [t.clone() for t in frozen]
    old = {n: t.clone() for n, t in model.vae.state_dict().items()}
    centre = model.priors["adalora"].centre.weight.clone()
    metrics = end_to_end(DrawnSubjects(world), model, names, critic, zoo_of(model), last_config(6))
    assert metrics["likeness_after"] > metrics["likeness_before"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))
    new = model.vae.state_dict()
    for part in ("encoder.linear.weight", "logvar.weight", "decoder.linear.weight", "stem.local.0", "stem.across"):
        assert not torch.equal(new[part], old[part]), part
    weights = [model.priors[n].centre.weight for n in names]
    assert all(not torch.equal(w, centre) for w in weights)
    assert not torch.equal(*weights)
    assert not any(p.requires_grad for m in (model.vae, *(model.priors[n] for n in names)) for p in m.parameters())
    # The stem is orthonormal, as the rest of the package takes it to be.
    rows = model.vae.stem.lift(torch.eye(model.vae.stem.num_components))
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4)
    assert all(model.settings[n]["scale"] == 1.1 for n in names)


def test_end_to_end_chooses_by_the_loras_that_a_user_gets(world, model, critic, monkeypatch):
    from lorasynth.refining import training

    seen = []

    def spread(subjects, layout, vectors, centroids):
        seen.append(vectors)
        return vectors.std().item() / 100

    monkeypatch.setattr(training, "likeness", spread)
    metrics = end_to_end(DrawnSubjects(world), model, ["adalora"], critic, zoo_of(model), last_config(0))
    held = persons_of(Role.STOPPING, 4)
    expected = model.synthesize(world.embeddings(held, 1)[:, 0], prior="adalora")
    assert torch.allclose(seen[0], expected, atol=1e-5)
    assert metrics["likeness_before"] == pytest.approx(expected.std().item() / 100, rel=1e-4)


@pytest.mark.slow
def test_end_to_end_learns_the_same_from_a_zoo_on_disk(world, model, critic, later_is_better):
    zoo, other, asked = zoo_of(model), copy.deepcopy(model), []

    def read(rows):
        asked.append(len(rows))
        return zoo[rows]

    end_to_end(DrawnSubjects(world), model, ["adalora"], critic, zoo, last_config(2))
    end_to_end(DrawnSubjects(world), other, ["adalora"], critic, Rows(read, tuple(zoo.shape), "made"), last_config(2))
    assert asked == [8, 8]  # the rows of each step, and no others
    for one, two in ((model.vae, other.vae), (model.priors["adalora"], other.priors["adalora"])):
        assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.slow
def test_end_to_end_a_larger_zoo_weight_holds_the_zoo_better(world, model, critic, later_is_better):
    zoo = zoo_of(model)
    start, errors = copy.deepcopy(model.vae.state_dict()), []
    for weight in (0.0, 10.0):
        model.vae.load_state_dict(start)
        end_to_end(DrawnSubjects(world), model, ["adalora"], critic, zoo, last_config(10, zoo_weight=weight))
        back = model.vae.decode(model.vae.encode(zoo)[0])
        errors.append(((zoo - back).square().sum() / zoo.square().sum()).item())
    assert errors[1] < errors[0] - 0.05


@pytest.mark.parametrize("count", [1, 3])
def test_critic_is_held_to_as_many_photos_as_the_settings_say(world, critic, count):
    """With one it is the photo whose caption the base is asked for: the first."""
    share = Share(torch.Generator().manual_seed(0))
    settings, subjects = config(0, critic_photos=count, people_a_step=2), DrawnSubjects(world)
    _, photos = _people(subjects, subjects.teachers(0, 50), settings, share)
    assert photos.latents.shape[:2] == (2, count)
    judge = Judge(world.base, world.base.layout(1), critic, settings)
    seen = critic(photos.latents[0])
    person = torch.nn.functional.normalize(seen.mean(0), dim=0)
    one = photos.subjects([0])
    assert judge._identity_loss(photos.latents[:1, 0], one).item() == pytest.approx(
        1 - (seen[0] @ person).item(), abs=1e-5
    )


@pytest.mark.parametrize("states", ["photo", "drawn"])
def test_loss_looks_where_the_masks_are_white(world, critic, states):
    """Two masks that share out a picture: their losses have the mean of the loss without one."""
    layout, photos = world.base.layout(1), world.photos(persons_of(Role.STOPPING, 2), 1)
    judge = Judge(world.base, layout, critic, config(0, states=states, identity_weight=0.0, drawing_steps=2))
    upper = torch.zeros(2, 1, 1, 8, 8)
    upper[..., :4, :] = 1

    def loss(masks):
        shown, share = replace(photos, masks=masks), Share(torch.Generator().manual_seed(0))
        with torch.no_grad():
            return judge.loss(torch.zeros(2, layout.num_parameters), shown, share).item()

    one, other, whole = loss(upper), loss(1 - upper), loss(None)
    assert (one + other) / 2 == pytest.approx(whole, rel=1e-5)
    assert abs(one - whole) > 0.005
    assert loss(torch.ones_like(upper)) == pytest.approx(whole, rel=1e-5)


class OfOtherPhotos(DrawnSubjects):
    """The same people by another name, as a folder is in which photos were added."""

    content = "other photos"


def test_run_of_other_photos_is_not_gone_on_with(world, model, critic, tmp_path):
    few = config(1, people_a_step=2, validation_people=2)
    refine(DrawnSubjects(world), model, "adalora", critic, few, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match="subjects: portraits -> other photos"):
        refine(OfOtherPhotos(world), model, "adalora", critic, few, run_dir=tmp_path)


def test_frozen_vae_of_a_file_gets_no_gradients(world, model, critic, tmp_path):
    model.vae.save(tmp_path / "vae.safetensors")
    model.vae = LoRAVAE.load(tmp_path / "vae.safetensors")
    refine(DrawnSubjects(world), model, "adalora", critic, config(1, people_a_step=2, validation_people=2))
    assert all(p.grad is None for p in model.vae.parameters())


@pytest.mark.parametrize("states", ["photo", "drawn"])
@pytest.mark.slow
def test_people_in_a_batch_do_not_mix(world, model, critic, states):
    """What is asked of one person's LoRA does not depend on who else is asked: gradients are zero for all but its own row."""
    held = persons_of(Role.STOPPING, 3)
    vectors = torch.zeros(3, model.canonicalizer.layout.num_parameters).normal_(
        generator=torch.Generator().manual_seed(0)
    )
    photos = world.photos(held, RefineConfig().critic_photos)
    judge, losses = Judge(world.base, model.canonicalizer.layout, critic, config(0, states=states)), []
    for rows in (vectors, torch.cat([vectors[:1], 2 * vectors[1:]])):
        v = rows.clone().requires_grad_()
        judge.loss(v, photos, Share(torch.Generator().manual_seed(0))).backward()
        losses.append(v.grad[0])
    assert losses[0].abs().sum() > 0
    assert torch.allclose(losses[0], losses[1], atol=1e-7)


@pytest.mark.slow
def test_run_that_was_stopped_ends_with_the_same_weights(world, model, critic, tmp_path, stopped_in_step):
    start = {n: t.clone() for n, t in model.priors["adalora"].state_dict().items()}
    refine(DrawnSubjects(world), model, "adalora", critic, config(6))
    whole = {n: t.clone() for n, t in model.priors["adalora"].state_dict().items()}
    model.priors["adalora"].load_state_dict(start)
    with stopped_in_step(4):
        refine(DrawnSubjects(world), model, "adalora", critic, config(6), run_dir=tmp_path)
    model.priors["adalora"].load_state_dict(start)
    refine(DrawnSubjects(world), model, "adalora", critic, config(6), run_dir=tmp_path)
    assert all(torch.equal(t, whole[n]) for n, t in model.priors["adalora"].state_dict().items())


def _learn(learn, out, environment):
    os.environ |= environment
    with launched() as processes:
        learn(run_dir=out, processes=processes)


def curve_of(learn, out, count, port):
    """The lines of metrics that a training by so many forked processes writes."""
    context = torch.multiprocessing.get_context("fork")
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [context.Process(target=_learn, args=(learn, out, shared | {"RANK": str(rank)})) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * count
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["refine, photo", "refine, drawn", "end to end"])
def test_two_processes_follow_the_curve_of_one(world, model, critic, later_is_better, tmp_path, unused_port, stage):
    """End to end, one process has all people of the first prior, the other those of the second."""
    model.priors["adanorm"] = copy.deepcopy(model.priors["adalora"])
    each = {"validate_every": 1, "learning_rate": 3e-3, "steps": 6}
    if stage == "end to end":
        settings = last_config(6)
        through = replace(settings.through, loop=replace(settings.through.loop, **each))
        settings = replace(settings, through=through)
        learn = partial(
            end_to_end, DrawnSubjects(world), model, ["adalora", "adanorm"], critic, zoo_of(model), settings
        )
    else:
        settings = config(6, states=stage.split()[1], drawing_steps=3, loop=replace(config(6).loop, **each))
        learn = partial(refine, DrawnSubjects(world), model, "adalora", critic, settings)
    one = curve_of(learn, tmp_path / "one", 1, unused_port)
    two = curve_of(learn, tmp_path / "two", 2, unused_port)
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (one, two)]
    assert len(losses[0]) == 6
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)  # before any step: the same people, photos and noise
    # Adam's first steps divide rounding by itself where a gradient is next to nothing, as of a stem's many small numbers.
    # Drawing with LoRAs of noise enlarges rounding too: batches of 2 and of 4 differ by up to 4e-4 of a gradient's norm.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if stage == "refine, photo" else 2e-4)
    assert max(losses[0]) - min(losses[0]) > 1e-3  # there is a curve to follow


def test_people_that_cannot_be_shared_equally_are_refused(world, model, critic):
    share = Share(torch.Generator().manual_seed(0), Processes(1, 3))
    with pytest.raises(UsageError, match="3 processes can share equally, got 4 items"):
        _people(DrawnSubjects(world), range(9), config(1), share)


def test_what_is_not_a_diffusion_prior_is_refused(world, model, critic):
    with pytest.raises(UsageError, match="expected a diffusion prior to refine, got RidgePrior for 'ridge'"):
        refine(DrawnSubjects(world), model, "ridge", critic, config(1))
    with pytest.raises(UsageError, match="expected a diffusion prior to refine, got RidgePrior for 'ridge'"):
        end_to_end(DrawnSubjects(world), model, ["adalora", "ridge"], critic, zoo_of(model), last_config(1))


@pytest.mark.slow
def test_critic_learns_who_is_who_from_latents(world):
    """On people it was not trained on, after a minute's training at most: same people closer than different ones."""
    few = RecogniserConfig(loss="arcface", steps=60, batch_size=32)
    net = train_critic(DrawnSubjects(world), RefineConfig(critic=few, critic_people=64))
    assert isinstance(net, LatentNet)
    photos = world.photos(persons_of(Role.CHOOSING, 24), 2)
    a, b = net(photos.latents[:, 0]), net(photos.latents[:, 1])
    cosine = a @ b.T
    assert a.norm(dim=1).allclose(torch.ones(24), atol=1e-5)
    assert cosine.diagonal().mean() > cosine.mean() + 0.15
    assert not any(p.requires_grad for p in net.parameters())


def test_single_step_of_drawing_is_refused():
    with pytest.raises(UsageError, match="expected at least 2 drawing steps, got 1"):
        RefineConfig(states="drawn", drawing_steps=1)
