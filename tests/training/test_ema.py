"""The average against the recursion written out in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from lorasynth.training import ExponentialAverage
from lorasynth.training.ema import copy_into


def walk(decay, steps, seed=0):
    """A parameter that goes through random values, its average, and the values."""
    values = torch.randn(steps + 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parameter = nn.Parameter(values[0].clone())
    average = ExponentialAverage({"p": parameter}, decay)
    for step in range(steps):
        with torch.no_grad():
            parameter.copy_(values[step + 1])
        average.update(step)
    return parameter, average, values.numpy()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_average_is_the_weighted_sum_of_all_values(decay):
    _, average, values = walk(decay, steps=12)
    decays = np.minimum(decay, (1 + np.arange(12)) / (10 + np.arange(12)))
    # value k counts with what its own step takes in, times what every later step keeps.
    taken_in = np.concatenate([[1.0], 1 - decays])
    kept_after = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
    weights = taken_in * kept_after
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(average.tensors["p"].numpy(), weights @ values, rtol=1e-12)


def test_after_the_warm_up_a_step_keeps_the_decay_and_no_more():
    parameter, average, _ = walk(0.5, steps=8)  # (1 + 8) / (10 + 8) is a half
    before = average.tensors["p"].clone()
    average.update(8)
    torch.testing.assert_close(average.tensors["p"], (before + parameter.detach()) / 2)


def test_weights_that_stand_still_are_their_own_average():
    parameter = nn.Parameter(torch.tensor([0.3, -2.0]))
    average = ExponentialAverage({"p": parameter}, 0.99)
    for step in range(20):
        average.update(step)
    torch.testing.assert_close(average.tensors["p"], parameter.detach())


def test_average_does_not_share_memory_with_the_weights():
    parameter = nn.Parameter(torch.zeros(2))
    average = ExponentialAverage({"p": parameter}, 0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    assert (average.tensors["p"] == 0).all()


def test_trained_weights_come_back_also_after_an_error():
    parameter, average, values = walk(0.9, steps=4)
    kept = average.tensors["p"].clone()

    def use():
        with average.applied():
            assert torch.equal(parameter, kept)
            raise RuntimeError("validation failed")

    with pytest.raises(RuntimeError, match="validation failed"):
        use()
    assert torch.equal(parameter.detach(), torch.tensor(values[-1]))
    assert torch.equal(average.tensors["p"], kept)


def test_copying_keeps_the_parameter_itself():
    parameter = nn.Parameter(torch.zeros(2))
    where = parameter.data_ptr()
    copy_into({"p": parameter}, {"p": torch.ones(2), "unrelated": torch.ones(5)})
    assert parameter.data_ptr() == where
    assert parameter.tolist() == [1.0, 1.0]
    assert parameter.requires_grad
