"""The bank against N separate PEFT trainings: same outputs, same gradients, same weights after the same steps."""

import pytest
import torch
from peft import LoraConfig, set_peft_model_state_dict

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.bank import AdapterBank, attached
from lorasynth.lora.factors import LoRA
from lorasynth.lora.formats.diffusers import named_factors
from lorasynth.lora.layout import Layout

N, BATCH, STEPS = 3, 2, 5


@pytest.fixture
def vectors(layout):
    """Three starts in float64, none with a zero lora_B: gradients reach lora_A from the first step."""
    return torch.stack([LoRA.random(layout, seed=i, std=0.1).vector for i in range(N)]).double()


@pytest.fixture
def rows(inputs):
    """`inputs` in float64: six samples, two for each of three adapters."""
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def peft_unet(make_unet, layout, vector):
    """A UNet with one ordinary, trainable PEFT adapter, in the vector's dtype."""
    unet = make_unet().to(vector.dtype)
    names = [m.name for m in layout.modules]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names, init_lora_weights=False))
    set_peft_model_state_dict(unet, named_factors(LoRA(layout, vector), "", vector.dtype))
    return unet.to(vector.dtype)


def peft_trained(unet, lora_A):
    """The weights that PEFT trains, without lora_A where that is frozen."""
    return [p for name, p in unet.named_parameters() if p.requires_grad and (lora_A == "each" or "lora_B" in name)]


def peft_vector(unet, layout, of):
    """The flat vector of an adapter's weights, or of whatever ``of`` takes from them."""
    layers = dict(unet.named_modules())
    factors = {}
    for m in layout.modules:
        A, B = (of(getattr(layers[m.name], which)["default"].weight) for which in ("lora_A", "lora_B"))
        factors[m.name] = (A.flatten(1)[None], B.flatten(1)[None])
    return layout.join(factors)[0]


def own_rows(rows, n):
    return {k: v[n * BATCH : (n + 1) * BATCH] for k, v in rows.items()}


def squared(unet, rows):
    """A loss for each row."""
    return unet(**rows, return_dict=False)[0].square().mean((1, 2, 3))


@pytest.mark.slow
def test_gradients_are_those_of_separate_peft_adapters(make_unet, layout, vectors, rows):
    base = make_unet().double()
    bank = AdapterBank(base, layout, N, vectors)
    with bank.attached():
        squared(base, rows).view(N, BATCH).mean(1).sum().backward()
    pairs = zip(layout.modules, zip(bank.lora_A, bank.lora_B, strict=True), strict=True)
    ours = layout.join({m.name: (A.grad, B.grad) for m, (A, B) in pairs})
    for n in range(N):
        unet = peft_unet(make_unet, layout, vectors[n])
        squared(unet, own_rows(rows, n)).mean().backward()
        theirs = peft_vector(unet, layout, lambda weight: weight.grad)
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours[n], theirs, rtol=0, atol=1e-12)
    assert all(p.grad is None for p in base.parameters())


@pytest.mark.parametrize(
    ("dtype", "make_optimizer", "lora_A"),
    [
        (torch.float64, lambda p: torch.optim.AdamW(p, lr=1e-3), "each"),
        (torch.float64, lambda p: torch.optim.AdamW(p, lr=1e-3), "frozen"),
        (torch.float64, lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9), "each"),
        (torch.float32, lambda p: torch.optim.SGD(p, lr=0.1), "frozen"),
    ],
    ids=["adamw-float64-each", "adamw-float64-frozen", "sgd-float64-each", "sgd-float32-frozen"],
)
@pytest.mark.slow
def test_bank_trains_as_its_adapters_one_by_one_in_peft(make_unet, whole_layout, inputs, dtype, make_optimizer, lora_A):
    """On every linear layer and convolution of a UNet."""
    layout = whole_layout
    kernels = {m.kernel for m in layout.modules}
    assert kernels == {None, (1, 1), (3, 3)}
    vectors = torch.stack([LoRA.random(layout, seed=i, std=0.1).vector for i in range(N)]).to(dtype)
    if lora_A == "frozen":
        for a, _ in layout.slices.values():
            vectors[:, a] = vectors[0, a]
    rows = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    base = make_unet().to(dtype)
    bank = AdapterBank(base, layout, N, vectors, lora_A=lora_A)
    optimizer = make_optimizer([p for p in bank.parameters() if p.requires_grad])
    with bank.attached():
        for _ in range(STEPS):
            optimizer.zero_grad()
            squared(base, rows).view(N, BATCH).mean(1).sum().backward()
            optimizer.step()
    assert (bank.vectors() - vectors).abs().max() > 1e-3
    for n in range(N):
        unet = peft_unet(make_unet, layout, vectors[n])
        optimizer = make_optimizer(peft_trained(unet, lora_A))
        for _ in range(STEPS):
            optimizer.zero_grad()
            squared(unet, own_rows(rows, n)).mean().backward()
            optimizer.step()
        theirs = peft_vector(unet, layout, torch.Tensor.detach)
        torch.testing.assert_close(bank.vectors()[n], theirs, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("lora_A", ["each", "frozen"])
@pytest.mark.slow
def test_bank_draws_what_each_adapter_draws_in_peft(make_unet, whole_layout, rows, predict, lora_A):
    vectors = torch.stack([LoRA.random(whole_layout, seed=i, std=0.1).vector for i in range(N)]).double()
    if lora_A == "frozen":
        for a, _ in whole_layout.slices.values():
            vectors[:, a] = vectors[0, a]
    base = make_unet().double()
    plain = predict(base)
    with AdapterBank(base, whole_layout, N, vectors, lora_A=lora_A).attached():
        ours = predict(base)
    assert (ours - plain).abs().max() > 1e-2
    for n in range(N):
        theirs = peft_unet(make_unet, whole_layout, vectors[n])(**own_rows(rows, n), return_dict=False)[0]
        torch.testing.assert_close(ours[n * BATCH : (n + 1) * BATCH], theirs.detach(), rtol=0, atol=1e-12)


def test_each_adapter_sees_its_own_rows_only(unet, layout, vectors, predict):
    vectors = vectors.float()
    bank = AdapterBank(unet, layout, N, vectors)
    with bank.attached():
        before = predict(unet)
        bank.load_vectors(torch.stack([vectors[0], vectors[2], vectors[2]]))
        after = predict(unet)
    changed = (before - after).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, False, True, True, False, False]


def test_zero_bank_is_the_base_and_leaving_restores_it(unet, layout, vectors, predict):
    base = predict(unet)
    with AdapterBank(unet, layout, N, torch.zeros(layout.num_parameters)).attached():
        torch.testing.assert_close(predict(unet), base)

    def fail_inside():
        with AdapterBank(unet, layout, N, vectors.float()).attached():
            assert (predict(unet) - base).abs().max() > 1e-3
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_inside()
    assert torch.equal(predict(unet), base)


@pytest.mark.slow
def test_shared_lora_A_gets_the_sum_of_the_gradients(make_unet, layout, vectors, rows):
    gradients = {}
    one_A = AdapterBank(make_unet().double(), layout, N, vectors[0]).vectors()
    for mode in ("each", "shared", "frozen"):
        base = make_unet().double()
        bank = AdapterBank(base, layout, N, one_A, lora_A=mode)
        with bank.attached():
            squared(base, rows).sum().backward()
        gradients[mode] = [(A.grad, B.grad) for A, B in zip(bank.lora_A, bank.lora_B, strict=True)]
        assert torch.equal(bank.vectors(), one_A)
    for each, shared, frozen in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(shared[0], each[0].sum(0, keepdim=True), rtol=0, atol=1e-12)
        assert frozen[0] is None
        torch.testing.assert_close(frozen[1], each[1], rtol=0, atol=1e-12)


def test_vectors_and_load_vectors_are_inverse(unet, mixed_layout):
    bank = AdapterBank(unet, mixed_layout, 2, torch.zeros(mixed_layout.num_parameters))
    vectors = torch.randn(2, mixed_layout.num_parameters, generator=torch.Generator().manual_seed(0))
    bank.load_vectors(vectors)
    assert torch.equal(bank.vectors(), vectors)


def test_batch_that_does_not_divide_is_refused(unet, layout, predict):
    bank = AdapterBank(unet, layout, 4, torch.zeros(layout.num_parameters))
    with bank.attached(), pytest.raises(UsageError, match="a batch that 4 adapters can share equally, got 6 rows"):
        predict(unet)


def test_another_base_model_is_refused(unet, layout):
    other = Layout.from_dict({"base": "x", "modules": [["mid_block.nothing", 8, 8, 1]]})
    with pytest.raises(LayoutError, match=r"mid_block\.nothing: expected a Linear layer 8 -> 8, got None"):
        AdapterBank(unet, other, 1, torch.zeros(other.num_parameters))


def test_wrong_numbers_of_vectors_are_refused(unet, layout):
    zero = torch.zeros(2, layout.num_parameters)
    with pytest.raises(UsageError, match="at least 1 adapter, got 0"):
        AdapterBank(unet, layout, 0, zero[0])
    with pytest.raises(UsageError, match="one init vector, or 3 of them, got 2"):
        AdapterBank(unet, layout, 3, zero)
    with pytest.raises(UsageError, match="expected 2 vectors"):
        AdapterBank(unet, layout, 2, zero).load_vectors(zero[:1])


def test_different_lora_A_cannot_be_shared(unet, layout, vectors):
    with pytest.raises(UsageError, match="expected one lora_A for all adapters"):
        AdapterBank(unet, layout, N, vectors.float(), lora_A="shared")
    bank = AdapterBank(unet, layout, N, vectors[0].float(), lora_A="frozen")
    with pytest.raises(UsageError, match="expected one lora_A for all adapters"):
        bank.load_vectors(vectors.float())


def test_vectors_draw_and_get_gradients_as_a_bank_does(make_unet, layout, vectors, rows):
    base = make_unet().double()
    bank = AdapterBank(base, layout, N, vectors)
    with bank.attached():
        expected = squared(base, rows)
        expected.sum().backward()
    pairs = zip(layout.modules, zip(bank.lora_A, bank.lora_B, strict=True), strict=True)
    gradient = layout.join({m.name: (A.grad, B.grad) for m, (A, B) in pairs})
    leaf = vectors.clone().requires_grad_()
    with attached(base, layout, leaf * 1.0):  # a function of something else, as a predicted LoRA is
        ours = squared(base, rows)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    ours.sum().backward()
    torch.testing.assert_close(leaf.grad, gradient, rtol=0, atol=1e-12)
    # Outside the context the base is itself again.
    assert not any(layer._forward_hooks for layer in base.modules())


def test_vectors_of_another_base_are_refused(make_unet, layout, vectors):
    with pytest.raises(LayoutError, match="of another base model"), attached(torch.nn.Linear(2, 2), layout, vectors):
        pass
