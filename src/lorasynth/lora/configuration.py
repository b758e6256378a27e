"""PEFT's configuration of an adapter, beside its weights or in a header: only that of a plain LoRA is taken."""

from collections.abc import Mapping
from typing import Any

from lorasynth.storage.faults import refuse
from lorasynth.storage.reading import parse_json
from lorasynth.storage.schema import Misfit

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
CONFIG_KEY = "adapter_config"
"""Where readers look for the text of adapter_config.json: the scale is in no other place."""

_AGAIN = "save it again, with the program that trained it"
_USE_PEFT = "use it through PEFT: here only plain LoRAs are read"
# What PEFT's adapters may start from and still be plain LoRAs: the base model's weights are the published ones (None: not said).
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


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
    if config.get("use_rslora") not in (None, True, False) or type(config.get("use_rslora")) is int:
        raise refuse("bad-metadata", f"{where} use_rslora", "true or false", f"{config['use_rslora']!r}", _AGAIN)
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


def configuration(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configuration beside PEFT's weights, which has to be a plain LoRA's.

    Raises:
        FaultyFileError: it is not JSON, or asks for more.
    """
    config = json_object(metadata[CONFIG_KEY], CONFIG_NAME)
    require_plain(config, CONFIG_NAME)
    return config


def json_object(text: str, where: str) -> dict[str, Any]:
    """What a configuration's text says: an object, each of whose keys stands once.

    Raises:
        FaultyFileError: it is not JSON, no object, or says a key twice.
    """
    try:
        value = parse_json(text)
    except Misfit as error:
        raise refuse("bad-metadata", where, "JSON", str(error).removeprefix("expected JSON, got "), _AGAIN) from None
    if not isinstance(value, dict):
        raise refuse("bad-metadata", where, "an object", type(value).__name__, _AGAIN)
    return value
