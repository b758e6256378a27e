"""From a format's tensors to ours: halves paired by module, and the number that each module's product counts with."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lorasynth.lora.configuration import json_object, require_plain
from lorasynth.lora.patterns import Patterns
from lorasynth.storage.arrays import Array
from lorasynth.storage.faults import refuse

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers writes PEFT's configurations into a header, each field after the name of its model and a dot."""

Halved = dict[str, tuple[Array, Array]]
"""Module name -> (lora_A (R, I), lora_B (O, R))."""


class Scaled(NamedTuple):
    """One module as a file holds it: factors of any floating-point type, whose effect is ``scaling * lora_B @ lora_A``."""

    lora_A: Array
    lora_B: Array
    scaling: float


Stored = dict[str, Scaled]
"""Module name -> its factors as a file holds them; the gate folds the scaling into lora_B, in float32."""

# NOTE: trainers take any alpha. Usual ones reach from 1 at rank 1,024 to some hundred times the rank; this leaves a thousandfold.
_SCALES = (1e-6, 1e5)
_MODELS = ("unet.", "transformer.", "transformer_2.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
_AGAIN = "save it again, with the program that trained it"


def scaled_by(pairs: Halved, config: Mapping[str, Any], where: str) -> Stored:
    """Each module's factors with the scaling that a PEFT configuration gives it.

    Args:
        pairs: the factors as stored.
        config: ``r``, ``lora_alpha``, ``rank_pattern``, ``alpha_pattern``, ``use_rslora`` as in PEFT's LoraConfig.
        where: what to call the configuration in a message.

    Raises:
        FaultyFileError: the configuration asks for something else than a plain LoRA, or does not fit the tensors.
    """
    require_plain(config, where)
    ranks, alphas = (
        Numbers(config, "r", "rank_pattern", where),
        Numbers(config, "lora_alpha", "alpha_pattern", where),
    )
    stored: Stored = {}
    for name, (A, B) in pairs.items():
        rank = A.shape[0]
        if (said := ranks(name)) != rank:
            fix = "keep the weights and the configuration of one adapter together"
            raise refuse("rank", f"{where} r of {name}", f"{rank}, as its tensors are", f"{said:g}", fix)
        alpha = alphas(name)
        check_alpha(f"{where} lora_alpha of {name}", alpha, rank)
        stored[name] = Scaled(A, B, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    return stored


def header_config(metadata: Mapping[str, str], prefix: str) -> dict[str, Any] | None:
    """The configuration that diffusers writes into a header for one model of a pipeline. None if there is none.

    Raises:
        FaultyFileError: it is not JSON, no object, or has fields of no model, which nothing reads.
    """
    if not (text := metadata.get(METADATA_KEY)):
        return None
    config = json_object(text, METADATA_KEY)
    for field in config:
        if not field.startswith(_MODELS):
            what = f"fields of one of a pipeline's models, such as {prefix}{field:.40}"
            raise refuse("bad-metadata", METADATA_KEY, what, f"{field}, which no program reads", _AGAIN)
    return {field.removeprefix(prefix): value for field, value in config.items() if field.startswith(prefix)} or None


def require_one_scale(stored: Stored, config: Mapping[str, Any] | None, source: str) -> None:
    """Refuse a header that gives a module another scale than its tensors do; diffusers takes no file with both.

    Args:
        stored: modules with the scales of their tensors.
        config: the header's configuration, if there is one.
        source: where the tensors' scales are from, in words.

    Raises:
        FaultyFileError: the two disagree, or the configuration is none of a plain LoRA.
    """
    if config is None or not stored:
        return
    others = scaled_by({name: (A, B) for name, (A, B, _) in stored.items()}, config, METADATA_KEY)
    for name, (_, _, scaling) in stored.items():
        if not math.isclose(scaling, others[name].scaling, rel_tol=1e-3):
            fix = "ask where it was made which of the two it was trained with: programs differ in which they apply"
            what = f"scale {scaling:g} of {name}, as {source}"
            raise refuse("two-scales", METADATA_KEY, what, f"{others[name].scaling:g}", fix)


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


class Numbers:
    """A number for each module: of the first pattern that PEFT would take for it, or the default."""

    def __init__(self, config: Mapping[str, Any], default: str, field: str, where: str):
        patterns = {} if config.get(field) is None else config[field]
        if not isinstance(patterns, Mapping):
            raise refuse("bad-metadata", f"{where} {field}", "an object", type(patterns).__name__, _AGAIN)
        self.default, self.field, self.where = default, field, where
        self.value, self.values = config[default], patterns
        self.patterns = Patterns(patterns, f"{where} {field}")

    def __call__(self, name: str) -> float:
        """The number of a module.

        Raises:
            FaultyFileError: it is none.
        """
        pattern = self.patterns.first_for(name)
        value, said_by = (self.value, self.default) if pattern is None else (self.values[pattern], self.field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refuse("bad-metadata", f"{self.where} {said_by} of {name}", "a number", f"{value!r}", _AGAIN)
        return float(value) if isinstance(value, float) or abs(value) < 2**63 else math.inf
