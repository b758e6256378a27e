"""From a format's tensors to ours: halves paired by module, alpha / rank folded into lora_B."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lorasynth.lora.faults import refuse

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module name -> (lora_A (R, I), lora_B (O, R))."""

_LITERAL = re.compile(r"\^?[A-Za-z0-9_.\-]+")


def pair(tensors: Mapping[str, Tensor]) -> Pairs:
    """``<module>.lora_A.weight`` and ``<module>.lora_B.weight`` -> module name -> both.

    Raises:
        FaultyFileError: a half is missing, there twice, or a key is neither.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key)
        if not found:
            raise refuse("unknown-key", key, "lora_A or lora_B of a module", "another tensor", "remove it")
        name, which = found.groups()
        if which in halves.setdefault(name, {}):
            raise refuse("duplicate-module", key, "each module once", "it again under another name", "remove one")
        halves[name][which] = tensor
    for name, half in halves.items():
        if missing := {"A", "B"} - half.keys():
            key = f"{name}.lora_{missing.pop()}.weight"
            raise refuse("missing-half", key, "both lora_A and lora_B", "one of the two", "get the whole file")
    return {name: (half["A"], half["B"]) for name, half in halves.items()}


def fold(pairs: Pairs, config: Mapping[str, Any], where: str) -> Pairs:
    """Multiply each lora_B by the scaling that a PEFT configuration gives its module, in float32.

    Args:
        pairs: the factors as stored.
        config: ``r``, ``lora_alpha``, ``rank_pattern``, ``alpha_pattern``, ``use_rslora`` as in PEFT's LoraConfig.
        where: what to call the configuration in a message.

    Raises:
        FaultyFileError: the configuration asks for something else than a plain LoRA, or does not fit the tensors.
    """
    _require_plain(config, where)
    folded: Pairs = {}
    for name, (A, B) in pairs.items():
        rank = A.shape[0]
        said = _number(config, "r", "rank_pattern", name, rank, where)
        if said != rank:
            raise refuse("rank", f"{where} r of {name}", f"{rank}, as its tensors are", f"{said:g}", "get both anew")
        alpha = _number(config, "lora_alpha", "alpha_pattern", name, rank, where)
        check_alpha(f"{where} lora_alpha of {name}", alpha, rank)
        folded[name] = scaled(A, B, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    return folded


def scaled(A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """The pair with ``scaling`` in lora_B; untouched where it is 1."""
    return (A.float(), B.float()) if scaling == 1 else (A.float(), B.float() * scaling)


def check_alpha(key: str, alpha: float, rank: int) -> None:
    """Refuse an alpha that cannot be meant.

    Raises:
        FaultyFileError: alpha / rank lies outside [1e-3, 1e3] or is not a number.
    """
    if not (math.isfinite(alpha) and 1e-3 <= alpha / rank <= 1e3):
        expected = f"alpha / rank from 1e-3 to 1e3 (rank {rank})"
        raise refuse("alpha", key, expected, f"alpha {alpha:g}", "set alpha to the rank if that is what was trained")


def _require_plain(config: Mapping[str, Any], where: str) -> None:
    """Only what is a plain LoRA: B·A times a number, nothing else changed in the model."""
    for field in ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "megatron_config", "use_qalora"):
        if config.get(field):
            raise refuse("kind", f"{where} {field}", "a plain LoRA", "true", "train it without; it is not supported")
    if config.get("bias") not in (None, "none"):
        raise refuse("kind", f"{where} bias", "none", f"{config['bias']}", "train it without biases")
    if str(config.get("peft_type", "LORA")).rpartition(".")[2] != "LORA":
        raise refuse("kind", f"{where} peft_type", "LORA", f"{config['peft_type']}", "only LoRA is supported")


def _number(config: Mapping[str, Any], default: str, field: str, name: str, rank: int, where: str) -> float:
    """A module's number: of the first pattern that its name ends in, as PEFT matches them, or the default, or the rank.

    NOTE: PEFT takes patterns as regular expressions; from an untrusted file only literal names are taken, which is what everybody
    writes, as an expression can be made to run for hours.
    """
    patterns = config.get(field) or {}
    if not isinstance(patterns, Mapping):
        raise refuse("bad-metadata", f"{where} {field}", "an object", type(patterns).__name__, "write it again")
    value, said_by = config.get(default, rank), default
    for pattern, number in patterns.items():
        if not _LITERAL.fullmatch(pattern):
            raise refuse("bad-metadata", f"{where} {field}", "module names", f"{pattern}", "write out the names")
        if name == pattern.removeprefix("^") or (pattern[0] != "^" and name.endswith("." + pattern)):
            value, said_by = number, field
            break
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse("bad-metadata", f"{where} {said_by} of {name}", "a number", f"{value!r}", "write it again")
    return float(value)
