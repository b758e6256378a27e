"""Randomness as a function of (seed, step): what makes a resumed run the same as one never stopped."""

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator on the CPU for one step of one run.

    No state of it needs saving: the same (seed, step) always gives the same numbers, and different pairs give streams that
    have nothing to do with each other (the pair is mixed by splitmix64 into one 63-bit seed).
    """
    x = (seed * 0x9E3779B97F4A7C15 + step + 0xD1342543DE82EF95) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return torch.Generator().manual_seed((x ^ (x >> 31)) >> 1)
