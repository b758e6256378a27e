"""The gate's look at names and numbers: what is in a LoRA file, under its own names, before any converter."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasynth.lora.faults import Fault, FaultyFileError, refuse
from lorasynth.lora.formats.scaling import check_alpha, largest_of

_AGAIN = "save it again, with the program that made it"
_ALLOWED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DOWN_UP = {"down": "lora_A", "up": "lora_B"}
_STYLES: dict[str, re.Pattern[str]] = {
    "kohya": re.compile(
        r"(?P<name>lora_[^.]+|diffusion_model\.[A-Za-z0-9_.]+)\.(?:lora_(?P<half>down|up)\.weight|(?P<alpha>alpha))"
    ),
    "xlabs": re.compile(
        r"(?P<name>(?:diffusion_model\.)?(?:double|single)_blocks\.[0-9]+\.processor\.(?:qkv|proj)_lora[12]?)"
        r"\.(?P<half>down|up)\.weight"
    ),
    "diffusers": re.compile(  # a transformer's may have alphas
        r"(?P<name>(?P<transformer>transformer\.)?.+)\.(?:lora_(?P<half>[AB])\.weight|(?(transformer)alpha|(?!)))"
    ),
    "diffusers-2022": re.compile(r"(?P<name>.+)[._]lora\.(?P<half>down|up)\.weight"),
}
_PEFT_PREFIX = "base_model.model."
# Names of other kinds of adapter, and of changes of the base model itself.
_OTHER_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"dora_scale|lora_magnitude_vector", "DoRA"),
        (r"\.hada_", "LoHa"),
        (r"\.lokr_", "LoKr"),
        (r"\.oft_|\.boft_", "OFT"),
        (r"\.lora_mid\.", "a Tucker-decomposed LoCon"),
        (r"\.lora_embedding_", "a LoRA of an embedding"),
        (r"\.bias$", "a bias"),
        (r"\.(set_weight|reshape_weight|diff|diff_b)$", "a change of the base weight itself"),
    )
)
_TEXT_ENCODER = re.compile(
    r"lora_te\d?_|text_encoder(_\d)?\.|text_encoders\.|base_model\.model\.(text_model|encoder)\."
)
# Names of the original code's blocks, whose fused layers only kohya's and XLabs' files are taken apart from.
_ORIGINAL_BLOCKS = re.compile(r"(double|single|joint)_blocks")
_TRANSFORMER_BLOCKS = re.compile(
    r"(base_model\.model\.|transformer\.|lora_transformer_)?transformer_blocks[._].*attn[._](to_[qkv]|add_[qkv]_proj)"
)
# What is linear in every UNet and transformer, whatever a file says.
_LINEAR = re.compile(r"(transformer|double|single|joint)_blocks|time_emb|emb_layers")
_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_TRANSFORMER_WIDTHS = {3072: "flux", 1536: "sd3", 2432: "sd3"}
# What headers call the bases: ours, kohya's ss_base_model_version, ModelSpec's architecture.
_STATED = (
    ("sd15", re.compile("sd15|sd_v1|stable-diffusion-v1")),
    ("sd2", re.compile("sd2|sd_v2|stable-diffusion-v2")),
    ("sdxl", re.compile("sdxl|stable-diffusion-xl")),
    ("sd3", re.compile("sd3|stable-diffusion-3")),
    ("flux", re.compile("flux1|flux-1|flux$")),
)


@dataclass
class Halves:
    """What a file holds of one module: shapes are those of the file."""

    lora_A: tuple[str, Tensor] | None = None
    lora_B: tuple[str, Tensor] | None = None
    alpha: tuple[str, Tensor] | None = None

    @property
    def rank(self) -> int | None:
        """Rows of lora_A, or what lora_B says in its place."""
        if self.lora_A is not None and self.lora_A[1].dim() in (2, 4):
            return len(self.lora_A[1])
        if self.lora_B is not None and self.lora_B[1].dim() in (2, 4):
            return self.lora_B[1].shape[1]
        return None


def detect_format(keys: list[str]) -> str:
    """The format that tensor names speak of.

    Raises:
        FaultyFileError: none that is known.
    """
    if any(key.startswith(_PEFT_PREFIX) for key in keys):
        return "peft"
    for style in ("kohya", "xlabs"):
        if any(_STYLES[style].fullmatch(key) for key in keys):
            return style
    if any(_STYLES[style].fullmatch(key) for style in ("diffusers", "diffusers-2022") for key in keys):
        return "diffusers"
    fix = "is this a LoRA? For a whole model, give the LoRA that was trained on it"
    raise refuse("no-lora", keys[0], "names of LoRA tensors (lora_A, lora_down …)", "none in the file", fix)


def detect_base(halves: dict[str, Halves]) -> str:
    """The base model by module names and by the width of a UNet's text or of a transformer; "" if they do not say."""
    if any(re.search(r"single_(transformer_)?blocks|double_blocks", name) for name in halves):
        return "flux"
    if any("joint_blocks" in name for name in halves):
        return "sd3"
    for name, half in halves.items():
        if half.lora_A is not None and _TRANSFORMER_BLOCKS.fullmatch(name):
            return _TRANSFORMER_WIDTHS.get(half.lora_A[1].shape[-1], "")
        if re.search(r"attn2[._](processor\.)?to_[kv]$", name) and half.lora_A is not None:
            return _WIDTHS.get(half.lora_A[1].shape[-1], "")
    return ""


def stated_base(metadata: Mapping[str, str]) -> tuple[str, str]:
    """The header's field that names one of the bases that shapes can tell, and which one; "" twice if none does."""
    for key in ("lorasynth.base", "ss_base_model_version", "modelspec.architecture"):
        for base, words in _STATED:
            if words.match(metadata.get(key, "")):
                return key, base
    return "", ""


def text_encoder_keys(keys: Iterable[str]) -> list[str]:
    """Those of a file's keys that belong to text encoders."""
    return [key for key in keys if _TEXT_ENCODER.match(key)]


def without_text_encoders(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Fault]]:
    """What is not a text encoder's, and a note that says what was left out.

    Raises:
        FaultyFileError: nothing remains.
    """
    left_out = text_encoder_keys(tensors)
    rest = {key: tensor for key, tensor in tensors.items() if not _TEXT_ENCODER.match(key)}
    if not left_out:
        return tensors, []
    fix = "as asked"
    if not rest:
        fix = "this LoRA changes a text encoder alone and is not supported"
        raise refuse("text-encoder", left_out[0], "modules of the UNet or transformer", "none", fix)
    got = f"{len(left_out)} tensors of text encoders, left out"
    what = "modules of the UNet or transformer only"
    return rest, [Fault(code="text-encoder", key=left_out[0], expected=what, actual=got, fix=fix, fatal=False)]


def check_content(tensors: dict[str, Tensor]) -> tuple[dict[str, Halves], list[Fault]]:
    """Sort tensors by module and list everything that is wrong with them.

    Returns:
        module name as the file spells it -> its parts; and the faults.
    """
    halves: dict[str, Halves] = {}
    faults: list[Fault] = []
    styles: dict[str, str] = {}
    for key, tensor in tensors.items():
        try:
            style, name, part = _parse(key)
            styles.setdefault(style, key)
            setattr(halves.setdefault(name, Halves()), part, (key, tensor))
            _check_values(key, tensor, part)
        except FaultyFileError as error:
            faults.append(error.fault)
    if len(styles) > 1:
        (first, _), (other, key), *_ = styles.items()
        expected, fix = f"names in one style, {first}'s", "keep the names of one program"
        faults.append(Fault(code="mixed-styles", key=key, expected=expected, actual=f"{other}'s too", fix=fix))
    for name, half in halves.items():
        try:
            _check_module(name, half)
        except FaultyFileError as error:
            faults.append(error.fault)
    if double := [key for key, tensor in tensors.items() if tensor.dtype == torch.float64]:
        got, fix = f"F64 in {len(double)} tensors, read as F32", "none is needed: programs compute in F32 or less"
        faults.append(
            Fault(code="double", key=double[0], expected="F16, BF16 or F32", actual=got, fix=fix, fatal=False)
        )
    original = [name for name in halves if _ORIGINAL_BLOCKS.search(name)]
    if original and (not styles.keys() <= {"kohya", "xlabs"} or any("joint_blocks" in name for name in original)):
        got = f"{'FLUX' if detect_base(halves) == 'flux' else 'Stable Diffusion 3'}'s original ones"
        fix = (
            "save it with diffusers; of transformers' files under original names, kohya's and XLabs' for FLUX are read"
        )
        faults.append(Fault(code="base", key=original[0], expected="names of diffusers' model", actual=got, fix=fix))
    return halves, faults


def _parse(key: str) -> tuple[str, str, str]:
    """Key -> (style, module name, part)."""
    for pattern, kind in _OTHER_KINDS:
        if pattern.search(key):
            raise refuse("kind", key, "a plain LoRA's tensor", kind, "not supported; train a plain LoRA")
    if _TEXT_ENCODER.match(key):
        fix = "give --unet-only to leave it out"
        raise refuse("text-encoder", key, "modules of the UNet only", "one of a text encoder", fix)
    for style, pattern in _STYLES.items():
        if found := pattern.fullmatch(key):
            half = found["half"]
            part = "alpha" if half is None else _DOWN_UP.get(half, f"lora_{half}")
            return ("peft" if key.startswith(_PEFT_PREFIX) else style), found["name"], part
    raise refuse("unknown-key", key, "a LoRA's lora_A, lora_B or alpha", "another tensor", "remove it from the file")


def _check_values(key: str, tensor: Tensor, part: str) -> None:
    if part == "alpha":
        if tensor.numel() != 1 or tensor.dtype == torch.bool:
            raise refuse("alpha", key, "one number", f"{tuple(tensor.shape)} {tensor.dtype}", _AGAIN)
        return
    if 0 in tensor.shape:
        raise refuse(
            "zero-size", key, "no dimension of size 0", f"{tuple(tensor.shape)}", "the file is empty of weights"
        )
    if tensor.dtype not in _ALLOWED:
        raise refuse(
            "dtype", key, "F16, BF16 or F32", f"{tensor.dtype}", "get it in one of these from where it was made"
        )
    if tensor.dim() == 4 and _LINEAR.search(key):
        fix = "is it for another model?"
        raise refuse("convolution", key, "2 dimensions, a linear layer's", f"{tuple(tensor.shape)}", fix)
    if tensor.dim() not in (2, 4):
        what = "2 dimensions, or a convolution's 4"
        raise refuse("dimensions", key, what, f"{tuple(tensor.shape)}", _AGAIN)
    largest = largest_of(tensor)
    if not math.isfinite(largest):
        bad = ~torch.isfinite(tensor)
        where = tuple(bad.nonzero()[0].tolist())
        got = f"{int(bad.sum())} NaN or infinite, the first at {where}"
        raise refuse(
            "not-finite",
            key,
            "finite numbers",
            got,
            "do not use this file: its training, or a conversion to float16, went wrong",
        )
    if largest > torch.finfo(torch.float32).max:
        raise refuse("too-large", key, "numbers that fit F32", f"{largest:.3g}", "check the training")


def _check_module(name: str, half: Halves) -> None:
    """Both halves, of one rank that the layer can have, and an alpha that can be meant."""
    if half.lora_A is None or half.lora_B is None:
        there = half.lora_A or half.lora_B or half.alpha
        missing = "lora_A (lora_down)" if half.lora_A is None else "lora_B (lora_up)"
        got = f"no {missing} beside {there[0] if there else name}"
        raise refuse(
            "missing-half",
            name,
            "both lora_A and lora_B",
            got,
            "compare its names with those of the file that it was made from",
        )
    (key_A, A), (key_B, B) = half.lora_A, half.lora_B
    if A.dim() not in (2, 4) or B.dim() not in (2, 4):
        return  # said already
    if A.dim() != B.dim() or B.shape[2:].numel() > 1:
        what = "(out, rank) beside (rank, in), or a convolution's (out, rank, 1, 1) beside (rank, in, height, width)"
        got = f"{tuple(B.shape)} beside {tuple(A.shape)}"
        raise refuse("dimensions", key_B, what, got, _AGAIN)
    shapes = f"{tuple(A.shape)} and {tuple(B.shape)}"
    if A.shape[0] != B.shape[1]:
        what = f"lora_A (rank, in) and lora_B (out, rank) of one rank, as {key_B} has it"
        raise refuse("rank", key_A, what, f"ranks {A.shape[0]} and {B.shape[1]} in {shapes}", _AGAIN)
    if half.alpha is not None and half.alpha[1].numel() == 1:
        check_alpha(half.alpha[0], float(half.alpha[1].item()), max(len(A), 1))
