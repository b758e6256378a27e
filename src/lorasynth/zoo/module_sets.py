"""Which layers of a base LoRAs may adapt: sets of them by name, and the part of a block that each belongs to."""

import re

from torch import nn

USUAL = "usual"
"""The set that is usual for the base's family."""


def module_sets(denoiser: nn.Module) -> dict[str, tuple[str, ...]]:
    """Sets of linear layers worth trying, by name, as endings of module names.

    Args:
        denoiser: a base's network. Nothing is known of its family.

    Returns:
        "usual" (empty: the base's own choice), "attention" (every projection), "attention+ff" (feed-forward layers, too) and
        "linear" (every linear layer, time embeddings and projections included), as far as there are such layers.
    """
    layers = denoiser.named_modules()
    ends = sorted({_within_block(name) for name, layer in layers if isinstance(layer, nn.Linear)})
    attention = tuple(end for end in ends if end.startswith("attn"))
    transformer = tuple(end for end in ends if end.startswith(("attn", "ff")))
    found = {USUAL: (), "attention": attention, "attention+ff": transformer, "linear": tuple(ends)}
    return {name: targets for name, targets in found.items() if targets or name == USUAL}


def group_of(name: str) -> str:
    """The part of a block that a module belongs to: "attn1", "attn2", "ff", "proj_in", "time_emb_proj" and so on."""
    return _within_block(name).partition(".")[0]


def _within_block(name: str) -> str:
    """What stands behind the last "transformer_blocks.3." or "resnets.0." of a module's name, or all of it."""
    return re.sub(r"^.*[a-z]s\.[0-9]+\.", "", name)
