"""Names for numbers: one at a time and many at once say the same."""

import torch

from lorasynth.worlds.words import one_of, which_of


def test_many_factors_get_the_names_that_each_gets_alone():
    names = ("small", "middling", "large")
    factors = torch.tensor([[-0.5, 0.0, 0.33, 0.34], [0.66, 0.67, 0.999, 1.5]])
    assert which_of(names, factors).tolist() == [[0, 0, 0, 1], [1, 2, 2, 2]]
    for factor, number in zip(factors.flatten().tolist(), which_of(names, factors).flatten().tolist(), strict=True):
        assert names[number] == one_of(names, factor)
