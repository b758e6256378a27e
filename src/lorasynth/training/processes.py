"""Several processes that train one model: each takes its share of every batch, gradients are averaged, one of them writes.

They are started by ``torchrun`` or ``accelerate launch``, one a GPU. What a step draws, dropout included, is drawn for the whole
batch in each of them, and each goes on with rows of its own: the run is that of one process, up to rounding.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lorasynth.errors import UsageError
from lorasynth.training.seeding import stratified_uniform


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: this one's number.
        count: how many they are.
    """

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this one writes and reports."""
        return self.rank == 0

    def share(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """This process's rows of a batch.

        Raises:
            UsageError: the batch cannot be cut into equal shares, so the mean of their losses would not be its own.
        """
        if len(tensors[0]) % self.count:
            raise UsageError(
                f"expected a batch that {self.count} processes can share equally, got {len(tensors[0])} items; start another "
                "number of processes"
            )
        return tuple(tensor.chunk(self.count)[self.rank] for tensor in tensors)

    def dropout(self) -> AbstractContextManager[Any]:
        """Within it, dropout of a share is that of its rows in the whole batch."""
        return nullcontext() if self.count == 1 else _SharedDropout(self)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, so that all come to one decision."""
        if self.count == 1:
            return number
        found = torch.tensor(number)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def require_same(self, what: str, description: str) -> None:
        """Check that all processes describe what they begin with by the same text.

        Raises:
            UsageError: they do not.
        """
        number = int.from_bytes(hashlib.sha256(description.encode()).digest()[:7])
        if self.largest(number) != -self.largest(-number):
            raise UsageError(
                f"{what}: expected the same weights, data and settings in all {self.count} processes, got others in some; use "
                "machines of one kind, and folders that all of them share"
            )


SINGLE_PROCESS = Processes(0, 1)


@dataclass(frozen=True)
class Share:
    """One process's part of a step: what it draws is drawn for the whole batch, and it goes on with rows of its own.

    Attributes:
        generator: of the step, the same in all processes.
        processes: that share the batch.
    """

    generator: torch.Generator
    processes: Processes = SINGLE_PROCESS

    def rows(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """This process's rows of tensors of the whole batch. See `Processes.share`."""
        return self.processes.share(*tensors)

    def normal(self, count: int, *shape: int) -> Tensor:
        """Standard normal noise for this process's ``count`` rows."""
        return self.rows(torch.randn(self.processes.count * count, *shape, generator=self.generator))[0]

    def stratified(self, count: int) -> Tensor:
        """Numbers in [0, 1) for ``count`` rows, in the whole batch one in each of so many equal parts."""
        return self.rows(stratified_uniform(self.processes.count * count, self.generator))[0]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of a number that gradients do not come through."""
        value = value.detach().clone()
        self.processes.average([value])
        return value


class _SharedDropout(TorchFunctionMode):
    def __init__(self, processes: Processes):
        super().__init__()
        self.processes = processes

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not F.dropout or not kwargs["training"] or kwargs["p"] == 0.0:
            return function(*args, **kwargs)
        x = args[0]
        whole = F.dropout(x.new_ones(self.processes.count * len(x), *x.shape[1:]), kwargs["p"])
        return x * self.processes.share(whole)[0]


def _number(name: str, default: int) -> int:
    """What a launcher says of a process, in its environment.

    Raises:
        UsageError: it is no number.
    """
    said = os.environ.get(name) or str(default)
    if not (said.isascii() and said.isdecimal() and len(said) < 7):
        raise UsageError(f"{name}: expected a number, as torchrun sets it, got {said!r:.40}; unset it, or use torchrun")
    return int(said)


@contextmanager
def launched() -> Iterator[Processes]:
    """The processes that ``torchrun`` or ``accelerate launch`` started. `SINGLE_PROCESS` without them.

    On GPUs (default device "cuda") each takes the one of its number on its machine.
    """
    count = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0)
    if count == 1:
        yield SINGLE_PROCESS
        return
    on_gpu = torch.get_default_device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(_number("LOCAL_RANK", 0))
        torch.set_default_device("cuda")
    # What one process does alone (the critic, baselines) may take longer than the half hour that others wait by default.
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=3))
    try:
        yield Processes(rank, count)
    finally:
        torch.distributed.destroy_process_group()


def require_alone(what: str) -> None:
    """Refuse to be one of several processes of ``torchrun`` or ``accelerate launch``.

    Raises:
        UsageError: it is.
    """
    if (count := _number("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            f"{what}: expected to be started once, got {count} processes; start its stages one by one, which share: train vae, "
            "train prior, train refine, train end-to-end"
        )
