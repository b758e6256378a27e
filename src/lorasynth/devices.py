"""Where things are computed: on torch's default device, which `--device` sets and everything here follows.

Models are made and files are read there, generators draw there, and nothing names a device itself, so that
``with torch.device("cuda"): ...`` around any part of the library moves that part. What goes into a file or must not depend on
the device (starting noise of pictures and samplers, bootstrap rows) is drawn on the CPU and brought along.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import UsageError


def use_device(name: str) -> torch.device:
    """Make a device the default one.

    Args:
        name: "cpu", "cuda" or "cuda:1" and the like.

    Raises:
        UsageError: torch knows no such device, or this machine has not got it.
    """
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
    except RuntimeError:
        known = False
    if not known:
        raise UsageError(f"expected device cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"expected a device of this machine, got {name!r} where torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    # NOTE: torch's default is the CPU already. Setting it anyway installs a function mode, which every call then goes through:
    # reading LoRAs took 1.6 times as long, synthesis 1.3 times.
    torch.set_default_device(None if device.type == "cpu" else device)
    return device


def begin_worker(device: str) -> None:
    """What a process that shares work with others does first: one thread, and the device of the process that started it.

    Raises:
        UsageError: see `use_device`.
    """
    torch.set_num_threads(1)
    use_device(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch computes on one thread of the CPU: sums over several come out in another order, and other digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noise_on_cpu(*shape: int, seed: int) -> Float[Tensor, "..."]:
    """Normal noise that is the same on every device: drawn on the CPU, brought to the default device."""
    drawn = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return drawn.to(torch.get_default_device())


@contextmanager
def half_precision(enabled: bool = True, *, cpu: bool = False) -> Iterator[None]:
    """Within it, a GPU's products and convolutions are those of bfloat16 (autocast). On the CPU nothing changes.

    Args:
        enabled: False: nothing changes anywhere.
        cpu: on a processor that multiplies bfloat16, too. NOTE: another one converts every number. A training step took it 12
            times as long as in float32.
    """
    kind = torch.get_default_device().type
    able = kind == "cuda" or (kind == "cpu" and cpu and cpu_multiplies_bfloat16())
    with torch.autocast(kind if able else "cpu", torch.bfloat16, enabled=enabled and able):
        yield


def cpu_multiplies_bfloat16() -> bool:
    """Whether torch finds instructions of this processor for products of bfloat16: AVX-512 BF16, AMX, or Arm's."""
    # torch 2.11 does not say: float32 is right anywhere.
    found: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Within it, float32 matrix products on a GPU are those of TF32, ten bits of mantissa. On the CPU nothing changes.

    Trainings can do with them. Closed forms (canonical form, ridge, principal directions) stay outside.
    """
    with _matmul("high"):
        yield


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Within it, float32 matrix products are float32's again: for a closed form that a training's step asks for."""
    with _matmul("highest"):
        yield


@contextmanager
def _matmul(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
