"""Weights come back from storage as near as the format allows, and stay there."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasynth.storage.weights import pack, unpack


@given(st.integers(0, 1000), st.floats(1e-6, 1e4))
def test_table_comes_back_within_half_a_step_of_its_row(seed, size):
    table = size * torch.randn(5, 40, generator=torch.Generator().manual_seed(seed))
    table[2] = 0
    packed = pack({"t": table, "bias": table[0]}, tables=("t",))
    assert packed["t"].dtype == torch.int8
    back = unpack(packed)
    assert back.keys() == {"t", "bias"}
    half_step = table.abs().amax(1, keepdim=True) / 127 * 0.5
    assert ((back["t"] - table).abs() <= half_step * 1.02 + 1e-30).all()


@given(st.integers(0, 1000))
def test_packing_again_gives_the_same_bytes(seed):
    packed = pack({"t": torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))}, tables=("t",))
    again = pack(unpack(packed), tables=("t",))
    for name, tensor in packed.items():
        assert torch.equal(tensor, again[name]), name


def test_small_tensors_are_half_precision_and_counts_whole():
    packed = pack({"w": torch.tensor([1 / 3]), "n": torch.tensor(3)})
    assert packed["w"].dtype == torch.float16
    assert packed["n"].dtype == torch.int64


def test_what_half_precision_cannot_hold_keeps_its_numbers():
    packed = pack({"large": torch.tensor([1e5, 3.0]), "small": torch.ones(2)})
    assert [packed[name].dtype for name in ("large", "small")] == [torch.float32, torch.float16]
    assert unpack(packed)["large"].tolist() == [1e5, 3.0]
