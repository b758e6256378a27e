"""From a format's tensors to ours: halves paired by module, and the number that each module's product counts with."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lorasynth.lora.faults import refuse

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module name -> (lora_A (R, I), lora_B (O, R))."""


class Scaled(NamedTuple):
    """One module as a file holds it: factors of any floating-point type, whose effect is ``scaling * lora_B @ lora_A``."""

    lora_A: Tensor
    lora_B: Tensor
    scaling: float


Stored = dict[str, Scaled]
"""Module name -> its factors as a file holds them; the gate folds the scaling into lora_B, in float32."""

# NOTE: trainers take any alpha. Usual ones reach from 1 at rank 1,024 to some hundred times the rank; this leaves a thousandfold.
_SCALES = (1e-6, 1e5)
_LITERAL = re.compile(r"\^?[A-Za-z0-9_.\-]+")
# What PEFT's adapters may start from and still be plain LoRAs: the base model's weights are the published ones (None: not said).
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


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


def scaled_by(pairs: Pairs, config: Mapping[str, Any], where: str) -> Stored:
    """Each module's factors with the scaling that a PEFT configuration gives it.

    Args:
        pairs: the factors as stored.
        config: ``r``, ``lora_alpha``, ``rank_pattern``, ``alpha_pattern``, ``use_rslora`` as in PEFT's LoraConfig.
        where: what to call the configuration in a message.

    Raises:
        FaultyFileError: the configuration asks for something else than a plain LoRA, or does not fit the tensors.
    """
    _require_plain(config, where)
    rank_of, alpha_of = (
        _Numbers(config, "r", "rank_pattern", where),
        _Numbers(config, "lora_alpha", "alpha_pattern", where),
    )
    stored: Stored = {}
    for name, (A, B) in pairs.items():
        rank = A.shape[0]
        said = rank_of(name, rank)
        if said != rank:
            raise refuse("rank", f"{where} r of {name}", f"{rank}, as its tensors are", f"{said:g}", "get both anew")
        alpha = alpha_of(name, rank)
        check_alpha(f"{where} lora_alpha of {name}", alpha, rank)
        stored[name] = Scaled(A, B, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    return stored


def largest_of(tensor: Tensor) -> float:
    """The largest absolute value; NaN if there is one. No copy is made of what may be large."""
    low, high = (float(extreme) for extreme in tensor.aminmax())
    return max(-low, high)


def check_alpha(key: str, alpha: float, rank: int) -> None:
    """Refuse an alpha that cannot be meant.

    Raises:
        FaultyFileError: alpha / rank lies outside of what trainers write, or is not a number.
    """
    low, high = _SCALES
    if not (math.isfinite(alpha) and low <= alpha / rank <= high):
        expected = f"alpha / rank from {low:g} to {high:g} (rank {rank})"
        fix = "get the file again from where it was made; whatever reads it would apply this scale"
        raise refuse("alpha", key, expected, f"alpha {alpha:g}", fix)


def _require_plain(config: Mapping[str, Any], where: str) -> None:
    """Only what is a plain LoRA: B·A times a number, nothing else changed in the model."""
    for field in (
        "use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "megatron_config", "use_qalora", "use_bdlora",
        "kasa_config", "arrow_config", "layer_replication",
    ):  # fmt: skip
        if config.get(field):
            raise refuse("kind", f"{where} {field}", "a plain LoRA", "true", "train it without; it is not supported")
    if config.get("bias") not in (None, "none"):
        raise refuse("kind", f"{where} bias", "none", f"{config['bias']}", "train it without biases")
    if str(config.get("peft_type", "LORA")).rpartition(".")[2] != "LORA":
        raise refuse("kind", f"{where} peft_type", "LORA", f"{config['peft_type']}", "only LoRA is supported")
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS and str(start).lower() not in _PLAIN_STARTS:
        # Section 3.1 of PiSSA (arXiv 2404.02948): the base loses what the factors start with, so ΔW is B·A - B₀·A₀.
        expected = "a start that leaves the base model as it was, such as true or 'gaussian'"
        got = f"{start!r}, whose update needs the first factors too"
        fix = "save it with PEFT's path_initial_model_for_weight_conversion"
        raise refuse("kind", f"{where} init_lora_weights", expected, got, fix)


class _Numbers:
    """A number for each module: of the first pattern that its name ends in, as PEFT matches them, or the default, or the rank.

    NOTE: PEFT takes patterns as regular expressions; from an untrusted file only literal names are taken, which is what everybody
    writes, as an expression can be made to run for hours. And a module looks up the endings of its name, as trying all patterns
    of a header for all its modules can be made to run for minutes.
    """

    def __init__(self, config: Mapping[str, Any], default: str, field: str, where: str):
        patterns = config.get(field) or {}
        if not isinstance(patterns, Mapping):
            raise refuse("bad-metadata", f"{where} {field}", "an object", type(patterns).__name__, "write it again")
        for pattern in patterns:
            if not _LITERAL.fullmatch(pattern):
                raise refuse("bad-metadata", f"{where} {field}", "module names", f"{pattern}", "write out the names")
        self.config, self.default, self.field, self.where = config, default, field, where
        self.found = {pattern: (i, number) for i, (pattern, number) in enumerate(patterns.items())}

    def __call__(self, name: str, rank: int) -> float:
        value, said_by = self.config.get(self.default, rank), self.default
        endings = [name[i + 1 :] for i, letter in enumerate(name) if letter == "."]
        matches = [self.found[ending] for ending in (f"^{name}", name, *endings) if ending in self.found]
        if matches:
            value, said_by = min(matches, key=lambda match: match[0])[1], self.field
        if isinstance(value, bool) or not isinstance(value, int | float):
            key = f"{self.where} {said_by} of {name}"
            raise refuse("bad-metadata", key, "a number", f"{value!r}", "write it again")
        return float(value) if isinstance(value, float) or abs(value) < 2**63 else math.inf
