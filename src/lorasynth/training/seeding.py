"""Randomness as a function of (seed, step): what makes a resumed run the same as one never stopped."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Streams of one run that must not be equal to each other: added to the seed, which is mixed afterwards.
ORDER_STREAM = 0x0DE5
DROPOUT_STREAM = 0xD60A


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator on the default device for one step of one run.

    No state of it needs saving: the same (seed, step) always gives the same numbers, and different pairs give streams
    that have nothing to do with each other (the pair is mixed by splitmix64 into one 63-bit seed). Other kinds of device have
    other streams.
    """
    x = (seed * 0x9E3779B97F4A7C15 + step + 0xD1342543DE82EF95) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return torch.Generator(torch.get_default_device()).manual_seed((x ^ (x >> 31)) >> 1)


def epoch_batch(num_items: int, batch_size: int, seed: int, step: int) -> Int[Tensor, " B"]:
    """The items of one step: every epoch is a new shuffle, a last batch that is not full is left out.

    Args:
        num_items: N.
        batch_size: B; with fewer items than that, a batch is all of them.
        seed: of the run.
        step: counted from 0 over the whole run.
    """
    batch_size = min(batch_size, num_items)
    epoch, batch = divmod(step, num_items // batch_size)
    order = torch.randperm(num_items, generator=step_generator(seed + ORDER_STREAM, epoch))
    return order[batch * batch_size : (batch + 1) * batch_size]


def stratified_uniform(count: int, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Numbers in [0, 1), one in each of ``count`` equal parts, in random order: timesteps with less variance."""
    part = torch.randperm(count, generator=generator)
    return (part + torch.rand(count, generator=generator)) / count


@contextmanager
def local_seed(seed: int) -> Iterator[None]:
    """Run a block under its own global seed (initial weights, dropout). Torch's state outside is left as it was."""
    device = torch.get_default_device()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
