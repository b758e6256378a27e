"""The shape annotations are checked while the tests run. Without the import hook they would check nothing, in silence."""

import sys
from pathlib import Path

import beartype
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from lorasynth.encoders.protocol import pool


def test_wrong_number_of_dimensions_raises():
    with pytest.raises(TypeCheckError, match="embeddings"):
        pool(torch.ones(3))


def test_wrong_dtype_raises():
    with pytest.raises(TypeCheckError, match="embeddings"):
        pool(torch.ones(2, 3, dtype=torch.int64))


def test_every_module_that_says_shapes_is_checked():
    """The hook's loader is jaxtyping's; others import a module as it is written."""
    shaped = {
        name: type(module.__loader__).__name__
        for name, module in sys.modules.items()
        if name.startswith("lorasynth.") and "from jaxtyping import" in Path(module.__file__).read_text()
    }
    assert "lorasynth.encoders.protocol" in shaped
    assert set(shaped.values()) == {"_JaxtypingLoader"}


def of_two_columns():
    @jaxtyped(typechecker=beartype.beartype)
    def row_sums(x: Float[Tensor, "N 2"]) -> Float[Tensor, " N"]:
        return x.sum(1)

    return row_sums


def of_three_columns():
    @jaxtyped(typechecker=beartype.beartype)
    def row_sums(x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        return x.sum(1, keepdim=len(x) > 4)

    return row_sums


def test_function_within_a_function_is_checked_each_time():
    """conftest.py remembers a check that was compiled: for all that are made in one place, and for no other."""
    for _ in range(2):
        assert of_two_columns()(torch.ones(4, 2)).shape == of_three_columns()(torch.ones(4, 3)).shape == (4,)
        for wrong, columns in ((of_two_columns, 3), (of_three_columns, 2)):
            with pytest.raises(TypeCheckError, match="parameter 'x'"):
                wrong()(torch.ones(4, columns))
        with pytest.raises(TypeCheckError, match="return value"):
            of_three_columns()(torch.ones(5, 3))


def test_right_shape_does_not():
    assert pool(torch.eye(3)).shape == (3,)
