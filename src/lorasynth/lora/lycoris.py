"""LoHa and LoKr adapters, of LyCORIS' trainers or PEFT's, read as the plain LoRAs that PEFT converts them into.

A module's update is formed by PEFT's own layer and taken apart by `peft.convert_to_lora`. LyCORIS' files have the same tensors
under the module's name, and the scale in its alpha; PEFT's have it in adapter_config.json.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from lorasynth.lora.configuration import CONFIG_KEY, CONFIG_NAME
from lorasynth.lora.scaling import Numbers, check_alpha
from lorasynth.storage.arrays import WEIGHTS, Array, float32, is_number, largest_of, number, type_name
from lorasynth.storage.faults import Fault, note, refuse

KEPT = 0.99999
"""How much of the squared norm of each module's update is kept; bfloat16 costs about as much as is lost."""
MAX_NUMBERS = 2**27
"""The largest update that is formed: twice that of FLUX's widest layer."""

_PART = re.compile(r"(?P<name>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.weight)?")
_WHOLE = {
    "LoHa": [{"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}],
    "LoKr": [first | second for first in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
             for second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"})],
}  # fmt: skip
_TUCKER = {"LoHa": {"hada_t1", "hada_t2"}, "LoKr": {"lokr_t2"}}
# Layers of UNets that are 3 x 3 convolutions, where a file has their kernel in one number with their channels.
_THREE_BY_THREE = re.compile(r"(^|[._])(conv[12]?|conv_in|conv_out|in_layers[._]2|out_layers[._]3|op)$")


class _Shape(NamedTuple):
    inputs: int
    out: int
    kernel: tuple[int, int] | None
    rank: int | None  # None where nothing is factorised


def as_plain(
    tensors: dict[str, Array], extra: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str], list[Fault]]:
    """A file's tensors with all LoHa and LoKr modules as LoRA's, and what that cost.

    Args:
        tensors: by the file's own names; others than LoHa's and LoKr's, with their alphas, stay as they are.
        extra: adapter_config.json's text, if the file is PEFT's.

    Raises:
        FaultyFileError: a module that is not whole, has numbers that cannot be, or is too large.
    """
    modules = _modules(tensors)
    if not modules:
        return tensors, dict(extra), []
    rest = {key: t for key, t in tensors.items() if not _PART.fullmatch(key)}
    scale_by = _Scales(extra)
    size2, lost2, kinds = 0.0, 0.0, set()
    for name, parts in modules.items():
        kind = _kind(name, parts)
        kinds.add(kind)
        shape = _shape(name, kind, {part: tensor for part, (_, tensor) in parts.items()})
        alpha = rest.pop(f"{name}.alpha", None)
        A, B, size, lost = _converted(kind, parts, shape, scale_by(name, kind, shape, alpha))
        size2, lost2 = size2 + size, lost2 + lost
        down, up = ("lora_A", "lora_B") if extra.get(CONFIG_KEY) else ("lora_down", "lora_up")
        keys = f"{name}.{down}.weight", f"{name}.{up}.weight"
        if taken := rest.keys() & {*keys}:
            raise refuse("duplicate-module", min(taken), "each module once", f"a {kind} of it too", _APPLY)
        rest |= dict(zip(keys, (A, B), strict=True))
    error = lost2 / size2 if size2 else 0.0
    what = f"{' and '.join(sorted(kinds))} in {len(modules)} modules, read with a squared relative error of {error:.1g}"
    first = next(iter(modules.values()))
    notes = [note("converted", next(iter(first.values()))[0], "a plain LoRA", what, "none is needed")]
    return rest, scale_by.plain(rest), notes


_APPLY = "apply it with the program that made it"


def _modules(tensors: Mapping[str, Array]) -> dict[str, dict[str, tuple[str, Array]]]:
    """The file's name of a module -> part -> key and tensor.

    Raises:
        FaultyFileError: a part is there twice.
    """
    modules: dict[str, dict[str, tuple[str, Array]]] = {}
    for key, tensor in tensors.items():
        if found := _PART.fullmatch(key):
            parts = modules.setdefault(found["name"], {})
            if found["part"] in parts:
                raise refuse("duplicate-module", key, "each part once", f"{parts[found['part']][0]} too", _APPLY)
            parts[found["part"]] = key, tensor
    return modules


def _kind(name: str, parts: Mapping[str, tuple[str, Array]]) -> str:
    """LoHa or LoKr, whole and of finite numbers.

    Raises:
        FaultyFileError: it is not.
    """
    key = next(iter(parts.values()))[0]
    kind = "LoHa" if any(part.startswith("hada") for part in parts) else "LoKr"
    wholes = [*_WHOLE[kind], *(whole | _TUCKER[kind] for whole in _WHOLE[kind])]
    if set(parts) not in wholes:
        got = f"a {kind} of {', '.join(sorted(parts))} alone"
        raise refuse("kind", key, f"all tensors of one adapter of {name}", got, "compare it with the file it is from")
    for key, tensor in parts.values():
        if tensor.dtype not in WEIGHTS:
            raise refuse("dtype", key, "F16, BF16 or F32", type_name(tensor), "get it in one of these types")
        if tensor.ndim not in (2, 4) or 0 in tensor.shape:
            raise refuse("dimensions", key, "2 or 4 dimensions, none of size 0", f"{tensor.shape}", _APPLY)
        if not math.isfinite(largest_of(tensor)):
            raise refuse("not-finite", key, "finite numbers", "NaN or infinite ones", "do not use this file")
    return kind


def _shape(name: str, kind: str, parts: Mapping[str, Array]) -> _Shape:
    """The layer's shape by its tensors, which have to fit each other.

    Raises:
        FaultyFileError: they do not, or the update is too large to be formed.
    """
    try:
        shape = _loha_shape(parts) if kind == "LoHa" else _lokr_shape(parts)
    except ValueError:
        got = ", ".join(f"{part} {tensor.shape}" for part, tensor in parts.items())
        raise refuse("dimensions", name, f"tensors of a {kind} that fit each other", got, _APPLY) from None
    if shape.inputs * shape.out > MAX_NUMBERS:
        got = f"{shape.inputs} -> {shape.out}"
        raise refuse("too-large", name, f"an update of at most {MAX_NUMBERS} numbers", got, _APPLY)
    if shape.kernel is None and shape.inputs % 9 == 0 and _THREE_BY_THREE.search(name):
        return shape._replace(kernel=(3, 3))
    return shape


def _require(*equal: tuple[int, int]) -> None:
    if any(a != b for a, b in equal):
        raise ValueError


def _matrix(parts: Mapping[str, Array], a: str, b: str) -> tuple[int, int, int]:
    """Rows, columns and rank of a product of two matrices."""
    (rows, rank), (again, columns) = parts[a].shape, parts[b].shape
    _require((rank, again))
    return rows, columns, rank


def _loha_shape(parts: Mapping[str, Array]) -> _Shape:
    if "hada_t1" in parts:
        shapes = []
        for i in (1, 2):
            (r, s, height, width), (r_a, out), (s_b, inputs) = (
                parts[f"hada_{part}"].shape for part in (f"t{i}", f"w{i}_a", f"w{i}_b")
            )
            _require((r, r_a), (s, s_b))
            shapes.append(_Shape(inputs * height * width, out, (height, width), r))
    else:
        shapes = [
            _Shape(inputs, out, None, rank)
            for out, inputs, rank in (_matrix(parts, f"hada_w{i}_a", f"hada_w{i}_b") for i in (1, 2))
        ]
    if shapes[0] != shapes[1]:
        raise ValueError
    return shapes[0]


def _lokr_shape(parts: Mapping[str, Array]) -> _Shape:
    rank, kernel, area = None, None, 1
    if "lokr_w1" in parts:
        out_1, in_1 = parts["lokr_w1"].shape
    else:
        out_1, in_1, rank = _matrix(parts, "lokr_w1_a", "lokr_w1_b")
    if "lokr_t2" in parts:
        (r, s, height, width), (r_a, out_2), (s_b, in_2) = (parts[f"lokr_{p}"].shape for p in ("t2", "w2_a", "w2_b"))
        _require((r, r_a), (s, s_b))
        rank, kernel, area = r, (height, width), height * width
    elif "lokr_w2" in parts:
        out_2, in_2, *size = parts["lokr_w2"].shape
        if size:
            kernel, area = (size[0], size[1]), size[0] * size[1]
    else:
        out_2, in_2, rank = _matrix(parts, "lokr_w2_a", "lokr_w2_b")
    return _Shape(in_1 * in_2 * area, out_1 * out_2, kernel, rank)


class _Scales:
    """The number that each module's product counts with: by its alpha, or by PEFT's configuration."""

    def __init__(self, extra: Mapping[str, str]):
        self.extra, self.config = dict(extra), None
        if extra.get(CONFIG_KEY):
            try:
                self.config = json.loads(extra[CONFIG_KEY])
            except (ValueError, RecursionError) as error:
                raise refuse("bad-metadata", CONFIG_NAME, "JSON", f"{error}", "save the adapter again") from None
            if not isinstance(self.config, dict) or not {"r", "alpha"} <= self.config.keys():
                what = "an object with r and alpha, which make the scale"
                raise refuse("bad-metadata", CONFIG_NAME, what, "another", "save the adapter again")
            self.ranks = Numbers(self.config, "r", "rank_pattern", CONFIG_NAME)
            self.alphas = Numbers(self.config, "alpha", "alpha_pattern", CONFIG_NAME)

    def __call__(self, name: str, kind: str, shape: _Shape, alpha: Array | None) -> float:
        """The scale of a module.

        Raises:
            FaultyFileError: it cannot be meant, or is there twice.
        """
        if self.config is not None:
            module = name.removeprefix("base_model.model.")
            rank, said = self.ranks(module), self.alphas(module)
            if not rank >= 1 or (shape.rank is not None and shape.rank != rank):
                fix = "keep the weights and the configuration of one adapter together"
                raise refuse(
                    "rank", f"{CONFIG_NAME} r of {module}", f"{shape.rank}, as its tensors are", f"{rank:g}", fix
                )
            check_alpha(f"{CONFIG_NAME} alpha of {module}", said, int(rank))
            return said / rank
        # LyCORIS: where nothing is factorised, alpha is the rank, whatever the file says (lycoris/modules/lokr.py).
        if alpha is None or shape.rank is None:
            return 1.0
        if not is_number(alpha):
            raise refuse("alpha", f"{name}.alpha", "one number", f"{alpha.shape} of {type_name(alpha)}", _APPLY)
        check_alpha(f"{name}.alpha", number(alpha), shape.rank)
        return number(alpha) / shape.rank

    def plain(self, tensors: Mapping[str, Array]) -> dict[str, str]:
        """What stands beside the plain LoRA: for PEFT a configuration at scale 1."""
        if self.config is None:
            return self.extra
        ranks = {
            f"^{key.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}": len(tensor)
            for key, tensor in tensors.items() if key.endswith(".lora_A.weight")
        }  # fmt: skip
        config = {"r": 1, "lora_alpha": 1, "rank_pattern": ranks, "alpha_pattern": ranks}
        return {**self.extra, CONFIG_KEY: json.dumps(config)}


def _converted(
    kind: str, parts: Mapping[str, tuple[str, Array]], shape: _Shape, scale: float
) -> tuple[Float32[np.ndarray, "R I *kernel"], Float32[np.ndarray, "O R *one"], float, float]:
    """Factors of one module's update, the update's squared norm, and how much of that is lost.

    Raises:
        FaultyFileError: the update is beyond float32.
    """
    import torch
    from peft import LoHaConfig, LoKrConfig, convert_to_lora, inject_adapter_in_model

    with torch.device("meta"):  # of the layer itself only the shape is asked for
        model = torch.nn.ModuleDict({"layer": torch.nn.Linear(shape.inputs, shape.out, bias=False)})
        config = (LoHaConfig if kind == "LoHa" else LoKrConfig)(r=1, alpha=1, target_modules=["layer"])
        inject_adapter_in_model(config, model)
    layer: Any = model["layer"]
    for part in layer.adapter_layer_names:
        getattr(layer, part).clear()
    for part, (_, tensor) in parts.items():
        getattr(layer, part)["default"] = torch.nn.Parameter(torch.tensor(float32(tensor)), requires_grad=False)
    layer.scaling["default"] = scale
    with torch.no_grad():
        update_OI = layer.get_delta_weight("default")
        if not math.isfinite(size := float(update_OI.double().square().sum())) or float(update_OI.abs().max()) > 1e19:
            key = next(iter(parts.values()))[0]
            raise refuse("too-large", key, "an update that fits F32", "a larger one", "check the training")
        try:
            _, state = convert_to_lora(model, rank=KEPT)
        except torch.linalg.LinAlgError:
            key = next(iter(parts.values()))[0]
            raise refuse(
                "kind", key, "an update with singular values", "one whose search for them fails", _APPLY
            ) from None
    A_RI, B_OR = state["layer.lora_A.weight"], state["layer.lora_B.weight"]
    back_OI = B_OR @ A_RI
    lost = float((update_OI.double() - back_OI.double()).square().sum())
    A, B = A_RI.detach().numpy(), B_OR.detach().numpy()
    if shape.kernel is not None:
        return A.reshape(len(A), -1, *shape.kernel), B[..., None, None], size, lost
    return A, B, size, lost
