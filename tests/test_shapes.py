"""The shape annotations are checked while the tests run. Without the import hook they would check nothing, in silence."""

import sys
from pathlib import Path

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


def test_every_module_that_says_shapes_is_checked():
    """The hook's loader is jaxtyping's; others import a module as it is written."""
    shaped = {
        name: type(module.__loader__).__name__
        for name, module in sys.modules.items()
        if name.startswith("lorasynth.") and "from jaxtyping import" in Path(module.__file__).read_text()
    }
    assert "lorasynth.encoders.protocol" in shaped
    assert set(shaped.values()) == {"_JaxtypingLoader"}


def test_right_shape_does_not():
    assert pool(torch.eye(3)).shape == (3,)
