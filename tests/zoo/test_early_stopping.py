"""People who come and go in a bank, against trainings of their own with PEFT and torch."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from lorasynth.base import denoising_loss
from lorasynth.errors import UsageError
from lorasynth.zoo.adapt import AdaptConfig, draw_samples
from lorasynth.zoo.early_stopping import Stopping, finetune_with_early_stopping, held_out_loss
from lorasynth.zoo.initialisation import random_init
from lorasynth.zoo.optimizer import BankAdamW, clip_each

RATES = (1e-3, 3e-3, 5e-4)


@pytest.fixture
def exact(tiny):
    """`tiny` in float64, and nothing else in float32 beside it."""
    base, layout, photos = tiny
    base = copy.deepcopy(base)
    base.denoiser.double()
    torch.set_default_dtype(torch.float64)
    prompts = photos.prompts.map(lambda x: x.double())
    yield base, layout, replace(photos, latents=photos.latents.double(), prompts=prompts)
    torch.set_default_dtype(torch.float32)


def leaving_after(steps):
    """A score of 1 from the step on at which each person shall leave."""
    looks = [0] * len(steps)

    def score(people, vectors):
        for person in people:
            looks[person] += 1
        return torch.tensor([float(looks[person] >= steps[person]) for person in people])

    return score


def run(tiny, rows, slots, steps, *, lora_A="each", **settings):
    base, layout, photos = tiny
    some = photos.subjects(rows)
    starts = random_init(layout, 0).to(photos.latents.dtype).expand(len(rows), -1)
    config = AdaptConfig(steps=20, batch_size=4, adam_epsilon=1e-6, lora_A=lora_A)
    stopping = Stopping(every=1, target=1.0, min_gain=-1.0)
    return finetune_with_early_stopping(
        base, layout, starts, some, config, stopping, leaving_after(steps), slots=slots, **settings
    )


@pytest.mark.parametrize("lora_A", ["each", "frozen"])
def test_who_comes_and_goes_is_trained_as_alone(exact, lora_A):
    """The third person begins in the first one's place while the second is on the way; then the batch becomes smaller."""
    steps = [2, 6, 3]
    together = run(exact, [0, 1, 2], 2, steps, lora_A=lora_A)
    assert together.steps.tolist() == steps
    for row in range(3):
        alone = run(exact, [row], 1, [steps[row]], lora_A=lora_A)
        torch.testing.assert_close(together.vectors[row], alone.vectors[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("slots", "rounds"), [(1, 8), (2, 4), (3, 4), (8, 4)])
def test_no_slot_idles(tiny, slots, rounds):
    assert run(tiny, [0, 1, 2], slots, [2, 4, 2]).rounds == rounds


def test_each_is_a_peft_training_with_its_own_rate_and_clipping(exact):
    base, layout, photos = exact
    max_norm, steps = 1e-3, [5, 3, 5]
    ours = run(exact, [0, 1, 2], 2, steps, learning_rates=torch.tensor(RATES), max_grad_norm=max_norm)
    init = random_init(layout, 0).double()
    config = AdaptConfig(batch_size=4)
    for n, rate in enumerate(RATES):
        their_base = copy.deepcopy(base)
        theirs = their_base.denoiser
        names = [m.name for m in layout.modules]
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=names), theirs)
        layers = dict(theirs.named_modules())
        for name, (A, B) in layout.split(init[None]).items():
            layers[name].lora_A["default"].weight.data = A[0].clone()
            layers[name].lora_B["default"].weight.data = B[0].clone()
        parameters = [p for p in theirs.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0)
        average = init.clone()
        for step in range(steps[n]):
            photo, noise, part = draw_samples(photos, config, step)
            x, prompts, _ = photos.batch(torch.tensor([[n]]), photo[None])
            loss = denoising_loss(their_base, x, noise, base.schedule.level(part), prompts).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            assert norm > max_norm
            optimizer.step()
            factors = {
                name: tuple(getattr(layers[name], which)["default"].weight[None] for which in ("lora_A", "lora_B"))
                for name in names
            }
            average = average.lerp(layout.join(factors)[0].detach(), 4 / (step + 4))
        assert (average - init).abs().max() > 1e-4
        torch.testing.assert_close(ours.vectors[n], average, rtol=0, atol=1e-8)


def test_optimizer_of_many_is_torchs_of_each():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64)
    rates = torch.tensor([1e-2, 3e-2, 1e-3])
    ours = torch.nn.Parameter(start.clone())
    optimizer = BankAdamW([ours], betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    theirs = [torch.nn.Parameter(row.clone()) for row in start]

    def torchs(n):
        return torch.optim.AdamW([theirs[n]], lr=rates[n].item(), betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)

    torch_optimizers = [torchs(n) for n in range(3)]
    for step, gradient in enumerate(gradients):
        if step == 3:  # somebody else takes the second place
            ours.data[1] = theirs[1].data = start[1] + 1
            optimizer.restart(1)
            torch_optimizers[1] = torchs(1)
        ours.grad = gradient.clone()
        optimizer.step(rates)
        for p, single, g in zip(theirs, torch_optimizers, gradient, strict=True):
            p.grad = g.clone()
            single.step()
    torch.testing.assert_close(ours.detach(), torch.stack(theirs).detach(), rtol=0, atol=1e-12)
    kept = torch.nn.Parameter(ours.detach()[[2, 0]])
    smaller = optimizer.moved([kept], [2, 0])
    kept.grad = gradients[0][[2, 0]].clone()
    smaller.step(rates[[2, 0]])
    for n in (2, 0):
        theirs[n].grad = gradients[0][n].clone()
        torch_optimizers[n].step()
    torch.testing.assert_close(kept.detach(), torch.stack([theirs[2], theirs[0]]).detach(), rtol=0, atol=1e-12)


def test_clipping_each_is_torchs_clipping_of_each():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.zeros(3, *shape)) for shape in ((2, 3), (4,))]
    for p in ours:
        p.grad = torch.randn(p.shape, generator=generator) * torch.tensor([0.1, 1.0, 10.0]).view(
            -1, *[1] * (p.dim() - 1)
        )
    theirs = [[torch.nn.Parameter(torch.zeros_like(p[n])) for p in ours] for n in range(3)]
    for n, parameters in enumerate(theirs):
        for p, q in zip(parameters, ours, strict=True):
            p.grad = q.grad[n].clone()
    norms = clip_each(ours, 1.0)
    expected = [torch.nn.utils.clip_grad_norm_(parameters, 1.0) for parameters in theirs]
    torch.testing.assert_close(norms, torch.stack(expected))
    assert norms[0] < 1 < norms[1]
    for n, parameters in enumerate(theirs):
        for p, q in zip(parameters, ours, strict=True):
            torch.testing.assert_close(q.grad[n], p.grad)


@pytest.mark.slow
def test_lora_stops_when_its_held_out_photos_gain_no_more(tiny):
    base, layout, photos = tiny
    score = held_out_loss(base, layout, photos)
    starts = random_init(layout, 0).expand(3, -1)
    before = score([0, 1, 2], starts)
    config = AdaptConfig(steps=12, batch_size=4, learning_rate=2e-2, adam_epsilon=1e-8)

    def steps_with(min_gain):
        stopping = Stopping(every=3, min_gain=min_gain)
        return finetune_with_early_stopping(base, layout, starts, photos, config, stopping, score, slots=2)

    assert steps_with(1e3).steps.tolist() == [6, 6, 6]  # the second look is the first that can find no gain
    whole = steps_with(-1e3)
    assert whole.steps.tolist() == [12, 12, 12]
    assert (score([0, 1, 2], whole.vectors) > before).all()
    # The score is of the people asked for, in their order.
    torch.testing.assert_close(score([2, 0], whole.vectors[[2, 0]]), score([0, 1, 2], whole.vectors)[[2, 0]])


@pytest.mark.parametrize(("slots", "lora_A"), [(0, "each"), (2, "shared")])
def test_what_cannot_be_trained_apart_is_refused(tiny, slots, lora_A):
    with pytest.raises(UsageError, match="expected slots and people, and lora_A 'each' or 'frozen'"):
        run(tiny, [0, 1], slots, [1, 1], lora_A=lora_A)


def test_parameters_of_unequally_many_adapters_are_refused():
    with pytest.raises(UsageError, match=r"equally many adapters, got \[1, 3\]"):
        BankAdamW([torch.nn.Parameter(torch.zeros(n, 2)) for n in (1, 3)])
