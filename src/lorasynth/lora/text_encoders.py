"""A text encoder's part of a LoRA file: known by its names, left out where that is asked for, and measured."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from lorasynth.lora import names
from lorasynth.lora.effect import update_norm2
from lorasynth.lora.scaling import METADATA_KEY, header_config, scaled_by
from lorasynth.storage.arrays import WEIGHTS, Array, is_number, largest_of, number
from lorasynth.storage.faults import Fault, FaultyFileError, note, refuse

_TEXT_ENCODER = re.compile(
    r"lora_te\d?_|text_encoder(_\d)?\.|text_encoders\.|base_model\.model\.(text_model|encoder)\.|lycoris_text_model_"
    r"|((model\.)?(cond_stage_model|conditioner)|clip_[lgh]|t5(xxl)?|text_model)\.(?=.*\.)"
)
# Textual inversions, as OneTrainer bundles them with a LoRA and as A1111 stores them alone.
_EMBEDDING = re.compile(r"bundle_emb\..+|emb_params|string_to_param\.\*|(clip_[lg]|t5(xxl)?)(_out)?", re.DOTALL)


def is_embedding(key: str) -> bool:
    """Whether a key is a textual inversion's."""
    return _EMBEDDING.fullmatch(key) is not None


@lru_cache(names.KEPT)
def is_text_encoders(key: str) -> bool:
    """Whether a tensor belongs to a text encoder, or is an embedding that goes into one."""
    return _TEXT_ENCODER.match(key) is not None or is_embedding(key)


def text_encoder_keys(keys: Iterable[str]) -> list[str]:
    """Those of a file's keys that belong to text encoders."""
    return [key for key in keys if is_text_encoders(key)]


def without_text_encoders(tensors: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """What is not a text encoder's, and what is.

    Raises:
        FaultyFileError: nothing remains.
    """
    left_out = {key: tensors[key] for key in text_encoder_keys(tensors)}
    if not left_out:
        return tensors, {}
    rest = {key: tensor for key, tensor in tensors.items() if key not in left_out}
    if not rest:
        fix = "this LoRA changes a text encoder alone and is not supported"
        raise refuse("text-encoder", next(iter(left_out)), "modules of the UNet or transformer", "none", fix)
    return rest, left_out


def faults_of(
    left_out: Mapping[str, Array], metadata: Mapping[str, str], norm: float | None, *, asked: bool
) -> list[Fault]:
    """What is to be said of a text encoder's part: fatal unless leaving it out was ``asked`` for.

    Args:
        left_out: its tensors; at least one.
        metadata: of the header.
        norm: of all other updates, to say which part of ``‖ΔW‖²`` is left out; None where nobody asks.
        asked: whether it shall be left out.
    """
    first, count = next(iter(left_out)), len(left_out)
    size = None if norm is None else _norm2(left_out, metadata)
    share = "" if not size or norm is None else f", with {size / (size + norm**2):.2g} of the file's ‖ΔW‖²"
    what, said = "modules of the UNet or transformer only", f"{count} tensors of text encoders{share}"
    if asked:
        return [note("text-encoder", first, what, f"{said}, left out", "as asked")]
    kind = "an embedding (textual inversion) for a text encoder" if is_embedding(first) else "one of a text encoder"
    got, fix = kind + (f" and {count - 1} more" if count > 1 else ""), "give --unet-only to leave it out"
    fatal = Fault(code="text-encoder", key=first, expected="modules of the UNet only", actual=got, fix=fix)
    return [fatal, *([note("text-encoder-share", first, what, said, fix)] if share else [])]


def _norm2(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> float | None:
    """``‖ΔW‖²`` of plain LoRA tensors. None if there are others, or any that is not sound."""
    layers: dict[str, dict[str, Array]] = {}
    for key, tensor in tensors.items():
        if (name := names.parse(key)) is None:
            return None
        layers.setdefault(name.raw, {})[name.part] = tensor
    try:
        return sum(_layer_norm2(raw, parts, metadata) for raw, parts in layers.items())
    except (KeyError, ValueError, FaultyFileError):
        return None


def _layer_norm2(raw: str, parts: Mapping[str, Array], metadata: Mapping[str, str]) -> float:
    A, B = parts["lora_A"], parts["lora_B"]
    is_pair = A.ndim == B.ndim and A.ndim in (2, 4) and len(A) == B.shape[1] and A.size and B.size
    if not is_pair or {A.dtype, B.dtype} - {*WEIGHTS} or not math.isfinite(largest_of(A) + largest_of(B)):
        raise ValueError(raw)
    if (alpha := parts.get("alpha")) is not None:
        scaling = number(alpha) / len(A) if is_number(alpha) else math.nan
    else:
        prefix, _, module = raw.partition(".")
        config = header_config(metadata, f"{prefix}.")
        scaling = 1.0 if config is None else scaled_by({module: (A, B)}, config, METADATA_KEY)[module].scaling
    if not math.isfinite(scaling):
        raise ValueError(raw)
    return update_norm2(A, B) * scaling**2
