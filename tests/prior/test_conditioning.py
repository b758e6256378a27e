"""ADALoRA by contraction against its definition, and what every conditioning block has to do."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasynth.errors import UsageError
from lorasynth.prior import CONDITIONING
from lorasynth.prior.conditioning import AdaLoRALinear, LoRAMixtureLinear, block_of

every_block = pytest.mark.parametrize("name", CONDITIONING)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed=0, in_features=7, out_features=5, condition_dim=6, rank=3, bottleneck=4):
    """A layer in float64 whose update is not zero."""
    torch.manual_seed(seed)
    made = AdaLoRALinear(in_features, out_features, condition_dim, rank, bottleneck).double()
    torch.nn.init.normal_(made.W_B)
    return made


def block(name, width=12, condition_dim=6):
    torch.manual_seed(0)
    return CONDITIONING[name](width, condition_dim, dropout=0.0).double()


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 4), bottleneck=st.integers(1, 5), batch=st.integers(1, 4))
def test_contracted_forward_equals_the_definition_with_gradients(seed, rank, bottleneck, batch):
    made = layer(seed, rank=rank, bottleneck=bottleneck)
    h, c = normal(seed, batch, 7).requires_grad_(), normal(seed + 1, batch, 6).requires_grad_()
    weight = normal(seed + 2, batch, 5)
    fast, slow = made(h, c), made.reference_forward(h, c)
    torch.testing.assert_close(fast, slow)
    inputs = [h, c, *made.parameters()]
    for one, two in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (fast, slow)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_each_sample_is_multiplied_by_its_own_weight():
    """W + B(c) A(c), a row at a time and in numpy, with A and B linear in the bottleneck."""
    made = layer()
    h, c = normal(1, 3, 7), normal(2, 3, 6)
    e = F.silu(c @ made.squeeze[0].weight.T + made.squeeze[0].bias).detach().numpy()
    W, W_A, W_B = (w.detach().numpy() for w in (made.linear.weight, made.W_A, made.W_B))
    for i, row in enumerate(made(h, c).detach().numpy()):
        A = sum(e[i, k] * W_A[k::4] for k in range(4))
        B = sum(e[i, k] * W_B[:, k::4] for k in range(4))
        expected = (W + B @ A) @ h[i].numpy() + made.linear.bias.detach().numpy()
        assert row == pytest.approx(expected, rel=1e-9)


def test_update_that_a_condition_makes_has_the_rank():
    made = layer(rank=2)
    c = normal(2, 1, 6)
    jacobian = torch.autograd.functional.jacobian(lambda h: made(h, c)[0], normal(1, 1, 7))[:, 0]
    assert torch.linalg.matrix_rank(jacobian - made.linear.weight, rtol=1e-9).item() == 2


def test_it_begins_as_its_plain_linear_layer_and_can_learn():
    torch.manual_seed(0)
    made = AdaLoRALinear(7, 5, 6)
    h, c = torch.randn(4, 7), torch.randn(4, 6)
    out = made(h, c)
    assert torch.equal(out, F.linear(h, made.linear.weight, made.linear.bias))
    out.square().sum().backward()
    assert made.W_B.grad.abs().max() > 0


def test_mixture_weighs_whole_loras_by_the_condition():
    """W + Σ ω_i(c) B_i A_i, a row at a time and in numpy."""
    torch.manual_seed(0)
    made = LoRAMixtureLinear(7, 5, 6, rank=2, num_loras=3, hidden=4).double()
    torch.nn.init.normal_(made.B.weight)
    h, c = normal(1, 3, 7), normal(2, 3, 6)
    W, A, B = (w.weight.detach().numpy() for w in (made.linear, made.A, made.B))
    for row, omega, out in zip(h.numpy(), made.weights(c).detach().numpy(), made(h, c).detach().numpy(), strict=True):
        update = sum(omega[i] * B[:, 2 * i : 2 * i + 2] @ A[2 * i : 2 * i + 2] for i in range(3))
        assert out == pytest.approx((W + update) @ row + made.linear.bias.detach().numpy(), rel=1e-9)


def test_all_blocks_have_one_signature():
    forwards = {tuple(inspect.signature(kind.forward).parameters) for kind in CONDITIONING.values()}
    assert forwards == {("self", "h", "c")}
    for kind in CONDITIONING.values():
        assert list(inspect.signature(kind).parameters)[:3] == ["width", "condition_dim", "dropout"]
        assert kind(12, 6, dropout=0.5)(torch.zeros(3, 12), torch.zeros(3, 6)).shape == (3, 12)


@every_block
def test_block_knows_the_condition_only_after_a_step(name):
    made = block(name)
    h, one, two = normal(1, 4, 12), normal(2, 4, 6), normal(3, 4, 6)
    torch.testing.assert_close(made(h, one), made(h, two))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    (made(h, one) - normal(4, 4, 12)).square().mean().backward()
    optimizer.step()
    assert (made(h, one) - made(h, two)).abs().max() > 1e-6


@every_block
def test_block_learns_what_only_the_condition_tells(name):
    """The same input all the time: without the condition, no answer is better than the mean."""
    made = block(name)
    c = normal(2, 32, 6)
    h, target = normal(1, 1, 12).expand(32, -1), torch.tanh(c @ normal(3, 6, 12))
    of_the_mean = (target - target.mean(0)).square().mean().item()
    optimizer = torch.optim.Adam(made.parameters(), lr=2e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (made(h, c) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * of_the_mean


@every_block
def test_row_does_not_see_the_others(name):
    made = block(name)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    h, c = normal(1, 4, 12), normal(2, 4, 6)
    torch.testing.assert_close(made(h, c)[2:3], made(h[2:3], c[2:3]))


def awake(name):
    made = block(name)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made, normal(1, 3, 12), normal(2, 3, 6)


def test_adaln_zero_begins_as_the_identity():
    made, h = block("adaln_zero"), normal(1, 4, 12)
    assert torch.equal(made(h, normal(2, 4, 6)), h)


def test_adaln_zero_with_an_open_gate_is_adanorm():
    made, h, c = awake("adaln_zero")
    other = block("adanorm")
    with torch.no_grad():
        made.modulation.weight[24:], made.modulation.bias[24:] = 0, 1
    shared = {n: t[:24] if n.startswith("modulation") else t for n, t in made.state_dict().items()}
    other.load_state_dict(shared)
    torch.testing.assert_close(made(h, c), other(h, c))


def test_film_scales_and_shifts_hidden_features():
    made, h, c = awake("film")
    hidden = made.up(made.norm(h)).detach().numpy()
    both = (c @ made.modulation.weight.T + made.modulation.bias).detach().numpy()
    x = torch.from_numpy((1 + both[:, :12]) * hidden + both[:, 12:])
    torch.testing.assert_close(made(h, c), h + made.down(x * torch.sigmoid(x)))


def test_concat_is_a_linear_layer_on_input_and_condition():
    made, h, c = awake("concat")
    W = torch.cat([made.up.weight, made.from_condition.weight], dim=1)
    x = F.linear(torch.cat([made.norm(h), c], dim=1), W, made.up.bias + made.from_condition.bias)
    torch.testing.assert_close(made(h, c), h + made.down(F.silu(x)))


def test_cross_attention_weighs_conditions_tokens_by_input():
    """Softmax attention written out; the weights differ from row to row and sum to 1."""
    made, h, c = awake("cross_attention")
    tokens, a = made.to_tokens(c), made.attention
    bias_q, bias_k, bias_v = a.in_proj_bias.chunk(3)
    q = F.linear(made.norm_attention(h), a.q_proj_weight, bias_q)
    k, v = F.linear(tokens, a.k_proj_weight, bias_k), F.linear(tokens, a.v_proj_weight, bias_v)
    weights = (torch.einsum("bw,btw->bt", q, k) / 12**0.5).softmax(1)
    attended = h + a.out_proj(torch.einsum("bt,btw->bw", weights, v))
    torch.testing.assert_close(made(h, c), attended + made.down(F.silu(made.up(made.norm(attended)))))
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_adaloras_rank_can_be_named():
    assert block_of("adalora-r3")(12, 6).up.rank == 3
    assert block_of("adalora")(12, 6).up.rank == 8
    for name in ("adalora-r0", "adalora-r", "adalora-r-1", "adanorm-r4"):
        with pytest.raises(UsageError, match=r"or adalora-rRANK, got 'ada"):
            block_of(name)
