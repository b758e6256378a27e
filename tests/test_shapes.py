"""The shape annotations are checked while the tests run. Without the import hook they would check nothing, in silence."""

import pytest
import torch
from jaxtyping import TypeCheckError

from lorasynth.encoders.protocol import pool


def test_wrong_number_of_dimensions_raises():
    with pytest.raises(TypeCheckError, match="embeddings"):
        pool(torch.ones(3))


def test_wrong_dtype_raises():
    with pytest.raises(TypeCheckError, match="embeddings"):
        pool(torch.ones(2, 3, dtype=torch.int64))


def test_right_shape_does_not():
    assert pool(torch.eye(3)).shape == (3,)
