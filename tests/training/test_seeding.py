"""Randomness against published numbers, and against what it must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lorasynth.storage.fingerprint import fingerprint
from lorasynth.training.seeding import epoch_batch, local_seed, step_generator, stratified_uniform


def numbers(seed, step, count=4):
    return torch.randn(count, generator=step_generator(seed, step)).tolist()


def test_step_depends_on_seed_and_step_and_nothing_else():
    first = numbers(3, 7)
    torch.manual_seed(99)
    torch.randn(5)
    numbers(3, 8)
    assert numbers(3, 7) == first
    assert len({tuple(numbers(seed, step)) for seed in range(6) for step in range(6)}) == 36


def test_drawing_a_step_leaves_torchs_own_state_alone():
    before = torch.get_rng_state()
    numbers(0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("state", "output"), [(0x9E3779B97F4A7C15, 0xE220A8397B1DCDAF), (2 * 0x9E3779B97F4A7C15, 0x6E789E6AA1B965F4)]
)
def test_pairs_are_mixed_by_the_published_splitmix64(state, output):
    # The first outputs of Vigna's splitmix64 seeded with 0, as in the JDK's SplittableRandom.
    step = (state - 0xD1342543DE82EF95) % 2**64
    assert step_generator(0, step).initial_seed() == output >> 1


def test_neighbouring_steps_and_seeds_are_not_correlated():
    draws = np.array([numbers(seed, step, 400) for seed in range(3) for step in range(3)])
    off_diagonal = np.corrcoef(draws)[~np.eye(9, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.25  # five standard deviations of chance


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 50))
def test_epoch_has_no_item_twice_and_leaves_out_less_than_batch(num_items, batch_size, seed):
    per_epoch = num_items // min(batch_size, num_items)
    for epoch in range(2):
        batches = [epoch_batch(num_items, batch_size, seed, epoch * per_epoch + i) for i in range(per_epoch)]
        items = torch.cat(batches).tolist()
        assert len(set(items)) == len(items) > num_items - batch_size
        assert set(items) <= set(range(num_items))


def test_every_epoch_and_every_seed_is_another_shuffle():
    orders = {tuple(epoch_batch(20, 20, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.integers(1, 40), st.integers(0, 1000))
def test_stratified_numbers_lie_one_in_each_part(count, seed):
    u = stratified_uniform(count, torch.Generator().manual_seed(seed))
    assert sorted((u.double() * count).floor().int().tolist()) == list(range(count))


def test_local_seed_decides_dropout_and_leaves_no_trace():
    x, dropout = torch.ones(64), nn.Dropout(0.5)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with local_seed(1):
        one = dropout(x)
    assert torch.equal(torch.randn(3), expected)
    with local_seed(2):
        other = dropout(x)
    with local_seed(1):
        again = dropout(x)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_local_seed_is_left_when_the_block_fails():
    before = torch.get_rng_state()

    def fail():
        with local_seed(1):
            torch.randn(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_fingerprint_changes_with_a_byte_a_shape_or_a_type():
    x = torch.arange(6.0)
    nearly = x.clone()
    nearly[2] = torch.nextafter(x[2], torch.tensor(9.0))
    prints = {
        fingerprint(t) for t in (x, nearly, x.reshape(2, 3), x.reshape(3, 2), x.view(torch.int32), x.double(), x[:5])
    }
    assert len(prints) == 7
    assert fingerprint(x, nearly) != fingerprint(nearly, x)


def test_fingerprint_is_of_values_not_of_memory():
    x = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(x.T.contiguous().T) == fingerprint(x) == fingerprint(x.clone().requires_grad_())
