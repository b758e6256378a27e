"""One LoRA against plain linear algebra, and against PEFT's own forward pass."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.effect import update_norm2
from lorasynth.lora.factors import LoRA, delta_W_inner, delta_W_norm2, delta_W_relative_error
from lorasynth.lora.layout import Layout, Module
from lorasynth.lora.products import update_inner

SMALL = Layout(
    base="small",
    modules=(
        Module(name="a", in_features=5, out_features=3, rank=2),
        Module(name="b", in_features=4, out_features=6, rank=1),
    ),
)


def random_vectors(n, seed):
    return torch.randn(n, SMALL.num_parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explicit(vectors):
    """All ΔW of each vector, formed and flattened."""
    loras = [LoRA(SMALL, v) for v in vectors]
    return torch.stack([torch.cat([lora.delta_W(n).flatten() for n in ("a", "b")]) for lora in loras])


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3))
def test_inner_products_are_those_of_the_formed_updates(seed, n, m):
    x, y = random_vectors(n, seed), random_vectors(m, seed + 1)
    torch.testing.assert_close(delta_W_inner(SMALL, x, y), explicit(x) @ explicit(y).T)
    torch.testing.assert_close(delta_W_norm2(SMALL, x), explicit(x).square().sum(1))


@given(st.integers(0, 1000), st.floats(1e-4, 1.0))
@pytest.mark.slow
def test_relative_error_is_that_of_the_formed_updates(seed, size):
    x = random_vectors(2, seed)
    y = x + size * random_vectors(2, seed + 1)
    formed = (explicit(x) - explicit(y)).square().sum(1) / explicit(x).square().sum(1)
    torch.testing.assert_close(delta_W_relative_error(SMALL, x, y), formed.float(), rtol=1e-4, atol=1e-12)
    assert delta_W_relative_error(SMALL, x, x).max() < 1e-12
    torch.testing.assert_close(delta_W_relative_error(SMALL, x, 0 * x), torch.ones(2))


def test_norm_is_that_of_all_updates_together():
    lora = LoRA(SMALL, random_vectors(1, 0)[0])
    assert lora.norm() == pytest.approx(explicit(lora.vector[None]).norm().item())
    assert LoRA(SMALL, torch.zeros(SMALL.num_parameters)).norm() == 0


@given(st.floats(-4, 4))
def test_scaled_scales_the_update_itself(factor):
    lora = LoRA(SMALL, random_vectors(1, 0)[0])
    torch.testing.assert_close(lora.scaled(factor).delta_W("a"), factor * lora.delta_W("a"))


def test_random_depends_on_the_seed_alone():
    assert torch.equal(LoRA.random(SMALL, seed=3).vector, LoRA.random(SMALL, seed=3).vector)
    assert not torch.equal(LoRA.random(SMALL, seed=3).vector, LoRA.random(SMALL, seed=4).vector)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_cannot_be_a_lora(value):
    vector = torch.zeros(SMALL.num_parameters)
    vector[3] = value
    with pytest.raises(UsageError, match="expected finite LoRA weights, got 1"):
        LoRA(SMALL, vector)


def test_vector_of_another_length_is_refused():
    with pytest.raises(LayoutError, match=f"expected a vector of {SMALL.num_parameters} numbers"):
        LoRA(SMALL, torch.zeros(3))


def test_unknown_module_is_refused():
    with pytest.raises(LayoutError, match="c: no such module in layout 'small'"):
        LoRA.random(SMALL).delta_W("c")


@torch.no_grad()
def test_attaching_is_adding_the_updates_to_the_weights(unet, make_unet, mixed_layout, predict):
    lora = LoRA.random(mixed_layout, std=0.3)
    lora.attach(unet)
    changed = make_unet()
    for m in mixed_layout.modules:
        changed.get_submodule(m.name).weight += lora.delta_W(m.name)
    torch.testing.assert_close(predict(unet), predict(changed), rtol=1e-4, atol=1e-5)
    assert (predict(unet) - predict(make_unet())).abs().max() > 0.05


@pytest.mark.parametrize("which", ["mixed_layout", "whole_layout"])
def test_attaching_is_a_bank_of_one(unet, make_unet, which, predict, request):
    lora = LoRA.random(request.getfixturevalue(which), std=0.1)
    with AdapterBank(unet, lora.layout, 1, lora.vector).attached():
        in_bank = predict(unet)
    attached = make_unet()
    lora.attach(attached)
    torch.testing.assert_close(in_bank, predict(attached), rtol=1e-4, atol=1e-5)


def test_detaching_restores_the_model(unet, layout, predict):
    base = predict(unet)
    LoRA.random(layout, seed=1, std=0.3).attach(unet)
    with_one = predict(unet)
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):  # PEFT's, of every second adapter
        LoRA.random(layout, seed=2, std=0.3).attach(unet, "second")
    assert not torch.equal(predict(unet), with_one)
    with pytest.warns(UserWarning, match="second was active"):
        LoRA.detach(unet, "second")
    assert torch.equal(predict(unet), with_one)
    LoRA.detach(unet)
    assert torch.equal(predict(unet), base)
    assert not any("lora" in name for name, _ in unet.named_modules())


def test_attach_refuses_what_it_cannot_do(unet, layout):
    with pytest.raises(UsageError, match=r"give pipe\.unet"):
        LoRA.random(layout).attach(torch.nn.Linear(2, 2))
    with pytest.raises(LayoutError, match="a: expected a Linear layer 5 -> 3, got None"):
        LoRA.random(SMALL).attach(unet)
    with pytest.raises(UsageError, match="no adapter 'lorasynth'"):
        LoRA.detach(unet)
    LoRA.random(layout).attach(unet)
    with pytest.raises(UsageError, match="already; detach it"):
        LoRA.random(layout).attach(unet)


@settings(max_examples=5)
@given(st.lists(st.integers(0, 2**32), min_size=2, max_size=4, unique=True))
def test_different_seeds_give_different_loras(seeds):
    loras = [LoRA.random(SMALL, seed=s) for s in sorted(seeds)]
    assert all(not torch.equal(a.vector, b.vector) for a, b in pairwise(loras))


@pytest.mark.parametrize(("rank", "other"), [(3, 5), (64, 130), (300, 200)])
def test_products_of_any_rank_are_those_of_the_updates(rank, other):
    """Ranks of more than one part at a time, too."""
    g = torch.Generator().manual_seed(0)
    A, B, C, D = (torch.randn(*shape, generator=g) for shape in ((rank, 9_000), (7, rank), (other, 9_000), (7, other)))
    left, right = B.double() @ A.double(), D.double() @ C.double()
    assert update_norm2(A.numpy(), B.numpy()) == pytest.approx(left.square().sum().item(), rel=1e-12)
    assert update_inner(A[None], B[None], C[None], D[None]).item() == pytest.approx(
        (left * right).sum().item(), rel=1e-9
    )
