"""The grammar of tensor names in LoRA files, for each tensor by itself: prefix, module, half, adapter's name, suffix.

Programs mix these parts freely, so no file has one style. What a module's name means is for the tables of `bases` to say.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

KEPT = 1 << 15  # keys whose parts are remembered: files of one base have the same ones
_PREFIX = re.compile(
    r"base_model\.model\.|(model\.)?diffusion_model\.|unet\.|transformer\.|pipe\.dit\.|module\.|_orig_mod\."
    r"|lora_unet_|lora_transformer_|lycoris_"
)
_HALF = re.compile(
    r"(?P<name>.+?)(?:"
    r"\.lora_(?P<half>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight"
    r"|\.lora_linear_layer\.(?P<old>down|up)\.weight"
    r"|[._]lora\.(?P<older>down|up)\.weight"
    r"|(?<=_lora|lora1|lora2)\.(?P<xlabs>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
_PARTS = {"A": "lora_A", "B": "lora_B", "down": "lora_A", "up": "lora_B"}
# diffusers' attention processors of 2022, whose output layer had no number.
_PROCESSOR = re.compile(r"(?P<head>.+)\.processor\.(?P<last>to_\w+|add_\w+)")


@dataclass(frozen=True)
class Name:
    """What a tensor's name says.

    Attributes:
        format: the program's: "kohya", "diffusers", "peft" or "xlabs".
        raw: the module, as the file spells it, with its prefix.
        spellings: the module without prefix, and without each further one that may be part of the module's name.
        part: "lora_A", "lora_B" or "alpha".
        adapter: PEFT's name of the adapter, if it is in the key.
    """

    format: str
    raw: str
    spellings: tuple[str, ...]
    part: str
    adapter: str = ""


@lru_cache(KEPT)
def parse(key: str) -> Name | None:
    """A tensor's name by the grammar. None if it is no LoRA's."""
    if not (found := _HALF.fullmatch(key)):
        return None
    raw = found["name"]
    half = found["half"] or found["old"] or found["older"] or found["xlabs"]
    return Name(
        _format(key, raw, found), raw, _spellings(raw, is_2022=found["older"] is not None),
        _PARTS[half] if half else "alpha", found["adapter"] or "",
    )  # fmt: skip


def _format(key: str, raw: str, found: re.Match[str]) -> str:
    if key.startswith("base_model.model."):
        return "peft"
    if found["xlabs"]:
        return "xlabs"
    is_kohya = raw.startswith(("lora_", "lycoris_")) or found["half"] in ("down", "up")
    return "kohya" if is_kohya or (found["alpha"] and raw.startswith("diffusion_model.")) else "diffusers"


def _spellings(raw: str, *, is_2022: bool) -> tuple[str, ...]:
    """The module's name without the file's prefix, which may be there more than once."""
    names, rest = [], raw
    while prefix := _PREFIX.match(rest):
        rest = rest[prefix.end() :]
        names.append(rest)
    if is_2022 and (found := _PROCESSOR.fullmatch(rest)):
        last = {"to_out": "to_out.0"}.get(found["last"], found["last"])
        return (f"{found['head']}.{last}",)
    return tuple(filter(None, names)) or (raw,)


@lru_cache(KEPT)
def natural_order(name: str) -> tuple[str | int, ...]:
    """A sort key under which "blocks.2" stands before "blocks.10"."""
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name)))
