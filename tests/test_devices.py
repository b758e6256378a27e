"""The default device: chosen by name, refused where there is none, the same noise everywhere."""

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

from lorasynth.devices import fast_matmul, half_precision, noise_on_cpu, use_device
from lorasynth.errors import UsageError


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_default_device(None)


def test_device_becomes_the_default():
    with torch.device("meta"):
        assert torch.zeros(1).device.type == "meta"
    assert use_device("cpu") == torch.get_default_device() == torch.zeros(1).device


def test_cpu_costs_no_function_mode():
    """Every call of torch goes through a mode's Python code; torch's own default needs none."""
    torch.set_default_device("cpu")
    assert len(_get_current_function_mode_stack()) == 1
    use_device("cpu")
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "", "meta", "gpu"])
def test_unknown_device_is_refused(name):
    with pytest.raises(UsageError, match=r"expected device cpu, cuda or cuda:N, got"):
        use_device(name)
    assert torch.get_default_device().type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:7"])
def test_device_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=rf"expected a device of this machine, got '{name}' .* finds 0 CUDA devices"):
        use_device(name)
    assert torch.get_default_device().type == "cpu"


def test_noise_is_a_function_of_the_seed_and_drawn_on_the_cpu():
    expected = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise_on_cpu(2, 3, seed=5), expected)
    with torch.device("meta"):  # brought along to the default device, whatever it is
        assert noise_on_cpu(2, 3, seed=5).device.type == "meta"


def test_faster_products_are_left_behind_at_the_end():
    before = torch.get_float32_matmul_precision()
    with fast_matmul():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, False), ({"avx512_bf16": False, "avx2": True}, False), ({"avx512_bf16": True}, True), ({"bf16": True}, True)],
)
def test_cpu_rounds_only_where_it_multiplies_bfloat16(found, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    ones = torch.ones(2, 2)
    with half_precision(cpu=True):
        assert ((ones @ ones).dtype == torch.bfloat16) == expected
    with half_precision(False, cpu=True):
        assert (ones @ ones).dtype == torch.float32
    with half_precision():
        assert (ones @ ones).dtype == torch.float32


def test_on_the_cpu_nothing_is_rounded():
    x, y = torch.randn(2, 8, 8)
    with half_precision(), fast_matmul():
        assert torch.equal(x @ y, torch.mm(x, y))
        assert (x @ y).dtype == torch.float32
