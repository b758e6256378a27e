"""From a format's tensors to ours: halves paired by module, and the number that each module's product counts with."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lorasynth.lora.formats.patterns import Patterns
from lorasynth.storage.faults import refuse

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers writes PEFT's configurations into a header, each field after the name of its model and a dot."""

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
_MODELS = ("unet.", "transformer.", "transformer_2.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
_AGAIN = "save it again, with the program that trained it"
_USE_PEFT = "use it through PEFT: here only plain LoRAs are read"
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
            raise refuse("unknown-key", key, "lora_A or lora_B of a module", "another tensor", _AGAIN)
        name, which = found.groups()
        if which in halves.setdefault(name, {}):
            raise refuse("duplicate-module", key, "each module once", "it again under another name", _AGAIN)
        halves[name][which] = tensor
    for name, half in halves.items():
        if missing := {"A", "B"} - half.keys():
            key = f"{name}.lora_{missing.pop()}.weight"
            raise refuse("missing-half", key, "both lora_A and lora_B", "one of the two", _AGAIN)
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
    try:
        config: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse("bad-metadata", METADATA_KEY, "JSON", f"{error}", _AGAIN) from None
    if not isinstance(config, dict):
        raise refuse("bad-metadata", METADATA_KEY, "an object", type(config).__name__, _AGAIN)
    for field in config:
        if not field.startswith(_MODELS):
            what = f"fields of one of a pipeline's models, such as {prefix}{field:.40}"
            raise refuse("bad-metadata", METADATA_KEY, what, f"{field}, which no program reads", _AGAIN)
    return {field.removeprefix(prefix): value for field, value in config.items() if field.startswith(prefix)} or None


def require_one_scale(stored: Stored, config: Mapping[str, Any] | None, source: str) -> None:
    """Refuse a header that gives a module another scale than its tensors do. diffusers takes no file with both.

    Args:
        stored: modules with the scales of their tensors.
        config: the header's configuration, if there is one.
        source: where the tensors' scales are from, in words.

    Raises:
        FaultyFileError: the two disagree, or the configuration is none of a plain LoRA.
    """
    if config is None:
        return
    others = scaled_by({name: (A, B) for name, (A, B, _) in stored.items()}, config, METADATA_KEY)
    for name, (_, _, scaling) in stored.items():
        if not math.isclose(scaling, others[name].scaling, rel_tol=1e-3):
            fix = "ask where it was made which of the two it was trained with: programs differ in which they apply"
            what = f"scale {scaling:g} of {name}, as {source}"
            raise refuse("two-scales", METADATA_KEY, what, f"{others[name].scaling:g}", fix)


def largest_of(tensor: Tensor) -> float:
    """The largest absolute value, NaN if there is one. No copy is made of what may be large."""
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


def require_plain(config: Mapping[str, Any], where: str) -> None:
    """Only what is a plain LoRA: B·A times a number, nothing else changed in the model.

    Raises:
        FaultyFileError: the configuration asks for more, or does not say the scale.
    """
    for field in (
        "use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "megatron_config", "use_qalora", "use_bdlora",
        "kasa_config", "arrow_config", "layer_replication", "monteclora_config", "target_parameters", "trainable_token_indices",
        "alora_invocation_tokens",
    ):  # fmt: skip
        if config.get(field):
            raise refuse("kind", f"{where} {field}", "a plain LoRA", f"{config[field]}", _USE_PEFT)
    if config.get("bias") not in (None, "none"):
        raise refuse("kind", f"{where} bias", "none", f"{config['bias']}", _USE_PEFT)
    if str(config.get("peft_type", "LORA")).rpartition(".")[2] != "LORA":
        raise refuse("kind", f"{where} peft_type", "LORA", f"{config['peft_type']}", _USE_PEFT)
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS and str(start).lower() not in _PLAIN_STARTS:
        # Section 3.1 of PiSSA (arXiv 2404.02948): the base loses what the factors start with, so ΔW is B·A - B₀·A₀.
        expected = "a start that leaves the base model as it was, such as true or 'gaussian'"
        got = f"{start!r}, whose update needs the first factors too"
        fix = "save it with PEFT's path_initial_model_for_weight_conversion"
        raise refuse("kind", f"{where} init_lora_weights", expected, got, fix)
    if missing := {"r", "lora_alpha"} - config.keys():
        got = f"no {min(missing)}"
        raise refuse("bad-metadata", where, "an object with r and lora_alpha, which make the scale", got, _AGAIN)


class Numbers:
    """A number for each module: of the first pattern that PEFT would take for it, or the default."""

    def __init__(self, config: Mapping[str, Any], default: str, field: str, where: str):
        patterns = config.get(field) or {}
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
