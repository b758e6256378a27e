"""Good LoRA files changed at random: the gate refuses them in its own words, or accepts what is sound. Never anything else.

`make fuzz` tries 100,000 changed files; a failure names the mutant's number, and `mutant(number)` makes it again. What was
found becomes a row of corpus.py.
"""

import json
import math
import os
import random
import re
import resource
import struct
import sys
import time

import pytest
import torch
from safetensors.torch import load, save

from lorasynth.errors import LoRAFileError
from lorasynth.lora.gate import read_lora_bytes
from lorasynth.lora.inspection import Inspection
from lorasynth.lora.layout import Layout
from lorasynth.lora.products import Pairs
from lorasynth.storage.files import sorted_header

from .making import BLOCK, KOHYA_Q, kohya, loha, new_style, numbers, pack, peft_style, unpack

NUM_MUTANTS = int(os.environ.get("LORASYNTH_FUZZ", "20000"))
ADAPTER = {"r": 2, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {"to_q": 4}, "use_rslora": False}
CONFIG = json.dumps({**ADAPTER, "peft_type": "LORA", "bias": "none"})
HALF = {k: v.half() for k, v in kohya().items()}


def flux_kohya():
    """A plain layer and a fused one, which is read as three."""
    name = "lora_unet_double_blocks_0_img_attn"
    return {
        f"{name}_proj.lora_down.weight": numbers(2, 8), f"{name}_proj.lora_up.weight": numbers(6, 2),
        f"{name}_proj.alpha": torch.tensor(4.0), f"{name}_qkv.lora_down.weight": numbers(3, 8),
        f"{name}_qkv.lora_up.weight": numbers(12, 3),
    }  # fmt: skip


def flux_style():
    return {k.replace(f"unet.{BLOCK}", "transformer.single_transformer_blocks.0"): v for k, v in new_style().items()}


def convolutions():
    """A 1 x 1 and a strided 3 x 3 one beside a linear layer, as kohya's trainer writes them."""
    block = "lora_unet_down_blocks_0"
    return {
        **kohya(), f"{block}_attentions_0_proj_in.lora_down.weight": numbers(2, 8, 1, 1),
        f"{block}_attentions_0_proj_in.lora_up.weight": numbers(8, 2, 1, 1),
        f"{block}_downsamplers_0_conv.lora_down.weight": numbers(3, 2, 3, 3),
        f"{block}_downsamplers_0_conv.lora_up.weight": numbers(4, 3, 1, 1),
        f"{block}_downsamplers_0_conv.alpha": torch.tensor(1.0),
    }  # fmt: skip


def lycoris():
    """LoHa and LoKr in one file, with an alpha."""
    other = KOHYA_Q.replace("attn1", "attn2")
    lokr = {"lokr_w1": (2, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 4)}
    return {
        **loha(KOHYA_Q), f"{other}.alpha": torch.tensor(2.0),
        **{f"{other}.{part}": numbers(*shape) for part, shape in lokr.items()},
    }  # fmt: skip


SEEDS = [
    (sorted_header(save(kohya(), {"ss_network_dim": "2", "ss_network_alpha": "2"})), None),
    (sorted_header(save(HALF, {"lorasynth.base": "tiny", "lorasynth.layout": "0"})), None),
    (save(new_style(), {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in ADAPTER.items()})}), None),
    (save({k.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): v for k, v in new_style().items()}), None),
    (save(peft_style()), CONFIG),
    (save(flux_kohya()), None),
    (save(convolutions()), None),
    (save(lycoris()), None),
    (
        save(flux_style(), {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in ADAPTER.items()})}),
        None,
    ),
]
ODD = [
    None, True, -1, 0, 1, 2, 3, 8, 2**31, 2**63 - 1, 2**64, 10**400, 0.5, 1e308, float("inf"), float("nan"), "", "F64", "F16",
    "BF16", "I32", "BOOL", "F8_E4M3", "\ud800", "\0", "a\nb", "x" * 400, "(a+)+", [], {}, [[]], [0, 4], [2, 2], [0], [1] * 9,
    {"a": 1}, {"": 1},
]  # fmt: skip
WORDS = [
    ".lora_A.weight", ".lora_down.weight", ".alpha", ".lora_up.weight", ".lora.down.weight", "lora_unet_", "unet.",
    "base_model.model.", "lora_te_", "9" * 30, "input_blocks_4_1_", "middle_block_1_", "processor.", "to_q", "attn2",
    "ff_net_0_proj", "_", ".", "..", "0", "99", "-", "dora_scale", "transformer.", "text_encoder.", "lora_", "conv_in",
    "emb_layers_1", "proj_in", "double_blocks_", "single_blocks_", "img_attn_qkv", "linear1", "diffusion_model.",
    "lora_transformer_", "processor.qkv_lora1.down.weight", "single_transformer_blocks.", "init_lora_weights",
]  # fmt: skip
SPECIAL = [0.0, -0.0, float("inf"), float("nan"), 1e-40, 1e-38, 3e38, -3e38, 1e30, 65504.0, 1.0]


def edited_value(chance, value):
    """The JSON value with one of its parts replaced, dropped, doubled or nudged."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        match chance.randrange(5):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {(edited_text(chance, k) if k == key else k): v for k, v in value.items()}
            case 2:
                return {**value, edited_text(chance, key): value[key]}
            case _:
                return {**value, key: edited_value(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], edited_value(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice([-8, -4, -1, 1, 4, 8])
    if isinstance(value, str) and chance.random() < 0.5:
        return edited_text(chance, value)
    return chance.choice(ODD)


def edited_text(chance, text):
    """The text with a word put in, a piece cut out, or a piece replaced by a word."""
    first, last = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
    match chance.randrange(3):
        case 0:
            last = first
        case 1:
            return text[:first] + text[last:]
    return text[:first] + chance.choice(WORDS) + text[last:]


def edited_header(chance, content):
    text, data = unpack(content)
    header = json.loads(text)
    for _ in range(chance.randint(1, 2)):
        header = edited_value(chance, header)
    text = json.dumps(header)
    if chance.random() < 0.1:  # a key twice, or anything else that no JSON writer makes
        text = edited_text(chance, text)
    return pack(text.encode(errors="replace"), data)


def edited_adapter(chance, text):
    """The text of a PEFT configuration with a value changed: still JSON, mostly."""
    return json.dumps(edited_value(chance, json.loads(text))) if chance.random() < 0.8 else edited_text(chance, text)


def edited_metadata(chance, content):
    """The header's metadata changed by what a LoRA reader looks for in it."""
    text, data = unpack(content)
    header = json.loads(text)
    metadata = header.setdefault("__metadata__", {})
    name = chance.choice(
        ["lora_adapter_metadata", "lorasynth.base", "lorasynth.layout", "ss_network_alpha", "ss_network_dim"]
    )
    adapter = name == "lora_adapter_metadata"
    metadata[name] = edited_adapter(chance, metadata.get(name, "{}")) if adapter else str(chance.choice(ODD))
    return pack(json.dumps(header).encode(), data)


def edited_tensors(chance, content):
    """A sound container with other numbers, types, shapes or names of tensors in it."""
    text, data = unpack(content)
    header, parts = json.loads(text), {}
    for key, entry in header.items():
        if key != "__metadata__":
            parts[key] = [entry["dtype"], entry["shape"], bytearray(data[slice(*entry["data_offsets"])])]
    for _ in range(chance.randint(1, 2)):
        key = chance.choice(list(parts))
        dtype, shape, raw = parts[key]
        match chance.randrange(5):
            case 0:
                parts[edited_text(chance, key)] = parts.pop(key)
            case 1:
                parts[edited_text(chance, key)] = [dtype, list(shape), bytearray(raw)]
            case 2:
                parts[key][1] = chance.choice([shape[::-1], [*shape, 1], [1, *shape], shape[:1] or [1], []])
                if parts[key][1] in ([], shape[:1]):
                    parts[key][2] = raw[: len(raw) // max(shape[-1], 1) if shape else len(raw)]
            case 3 if dtype == "F32" and len(raw) >= 4:
                at = 4 * chance.randrange(len(raw) // 4)
                raw[at : at + 4] = struct.pack("<f", chance.choice(SPECIAL))
            case _:
                parts[key] = [chance.choice(["F32", "F16", "BF16", "F64", "I32", "U8", dtype]), shape, raw]
    entries, end, body = {k: v for k, v in header.items() if k == "__metadata__"}, 0, b""
    for key, (dtype, shape, raw) in parts.items():
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        end, body = end + len(raw), body + raw
    return pack(json.dumps(entries).encode(errors="replace"), body)


TYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.uint8, torch.uint64, torch.bool,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
ALPHAS = [0.0, -1.0, 1.0, 257.0, 4.0, 1e-5, 1e4, 1e30, 1e-30, float("nan"), float("inf"), True, 2**62, 3]
PATTERNS = [
    "to_q",
    ".*",
    "(a+)+b",
    "(",
    r"attn\d",
    "^x",
    "to_q|to_k",
    r"(.)\1",
    "(?i)to",
    "a{2,1}",
    "",
    "[z-a]",
    "(?=to)",
    "\ud800",
]
SWAPS = [
    ("lora_down", "lora_A"), ("lora_A", "lora_down"), ("lora_up", "lora_B"), ("lora_B", "lora_up"), (".weight", ".x.weight"),
    ("_blocks_0", "_blocks_7"), ("_blocks.0", "_blocks.7"), ("attn1", "attn2"), ("to_q", "to_k"), ("to_q", "to_out.0"),
    ("lora_unet_", "lora_te_"), ("unet.", "text_encoder."), ("lora_unet_", "lora_unet_lora_unet_"), ("unet.", "transformer."),
    ("base_model.model.", ""), ("lora_unet_down_blocks_0_attentions_0", "lora_unet_input_blocks_1_1"), (".lora_", ".hada_w1_"),
    ("lora_unet_", "diffusion_model."), (".lora_down.weight", ".lokr_w1"), (".lora_up.weight", ".lokr_w2"), ("unet.", ""),
]  # fmt: skip


def edited_lora(chance, content):
    """A file that a program could have written: a tensor of another type or shape, other alphas, ranks, names, metadata."""
    text, _ = unpack(content)
    metadata, tensors = json.loads(text).get("__metadata__", {}), load(content)
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(list(tensors))
        tensor = tensors[key]
        match chance.randrange(9):
            case 0:
                tensors[key] = tensor.to(chance.choice(TYPES))
            case 1:
                tensors[key] = reshaped(chance, tensor)
            case 2:
                tensors[f"{module_of(key)}.alpha"] = torch.tensor(chance.choice(ALPHAS)).to(
                    chance.choice([torch.float32, *TYPES])
                )
            case 3:
                old, new = chance.choice(SWAPS)
                some = chance.random() < 0.5
                tensors = {(k.replace(old, new) if not some or k == key else k): v for k, v in tensors.items()}
            case 4:
                tensors = of_rank(tensors, module_of(key), chance.choice([1, 3, 6, 7, 8, 9, 40]))
            case 5:
                tensors[edited_text(chance, key)] = tensor.clone()
            case 6 if len(tensors) > 1:
                del tensors[key]
            case 7 if tensor.numel() and tensor.is_floating_point():
                tensor = tensors[key] = tensor.clone(memory_format=torch.contiguous_format)
                tensor.view(-1)[chance.randrange(tensor.numel())] = torch.tensor(chance.choice(SPECIAL)).to(
                    tensor.dtype
                )
            case _:
                metadata |= said_by_programs(chance)
    return sorted_header(save({k: v.contiguous() for k, v in tensors.items()}, metadata or None))


def module_of(key):
    return re.sub(r"\.(alpha|lora.*|hada.*|lokr.*|(down|up)\.weight)$", "", key)


def reshaped(chance, tensor):
    """No dimension, one, one more, one of size 0, the other way round, a convolution's."""
    flat = tensor.flatten()
    shapes = [
        torch.tensor(1.0), flat[:1], flat, tensor[None], tensor[..., None], tensor[..., None, None], flat[:0],
        flat[:0].reshape(0, 4), tensor.mT if tensor.dim() > 1 else flat, flat.reshape(-1, 1), flat.reshape(1, -1),
        tensor[..., None, None].expand(*tensor.shape, 3, 3),
    ]  # fmt: skip
    return chance.choice(shapes).clone(memory_format=torch.contiguous_format)


def of_rank(tensors, module, rank):
    """One module at another rank, above its width perhaps."""
    made = {}
    for key, tensor in tensors.items():
        if key.startswith(module) and tensor.dim() > 1:
            axis = 0 if re.search(r"down|lora_A", key) else 1
            made[key] = numbers(*(rank if i == axis else n for i, n in enumerate(tensor.shape))).to(tensor.dtype)
    return tensors | made


def said_by_programs(chance):
    """A field of a header as programs write it, or nearly."""
    model, number = chance.choice(["unet.", "transformer.", "text_encoder.", ""]), chance.choice(ALPHAS)
    config = {
        "r": 2,
        "lora_alpha": number,
        chance.choice(["alpha_pattern", "rank_pattern"]): {chance.choice(PATTERNS): number},
    }
    return chance.choice([
        {"lora_adapter_metadata": json.dumps({f"{model}{k}": v for k, v in config.items()})},
        {"ss_network_dim": str(number), "ss_network_alpha": "2", "ss_network_args": chance.choice(["", "{", '{"conv_dim": 4}'])},
        {"ss_base_model_version": chance.choice(["sdxl_base_v1-0", "sd_v1", "flux1", "", "x"])},
        {"modelspec.architecture": chance.choice(["stable-diffusion-v1/lora", "flux-1-dev/lora", "", "\n"])},
        {"modelspec.hash_sha256": "0x0", "sshs_model_hash": "0", "note": "\x1b[2J"},
    ])  # fmt: skip


def edited_bytes(chance, content):
    """Bits flipped, bytes changed, cut off, put in, moved or copied from another file."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if not broken:
            break
        first, last = sorted((chance.randint(0, len(broken)), chance.randint(0, len(broken))))
        near = min(first + chance.randint(1, 16), len(broken))
        other = chance.choice(SEEDS)[0]
        start = chance.randrange(len(other))
        match chance.randrange(7):
            case 0 | 1:
                broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
            case 2:
                broken[chance.randrange(len(broken))] = chance.choice(
                    [0, 0x20, 0x22, 0x7B, 0x7F, 0x80, 0xFF, chance.randrange(256)]
                )
            case 3:
                del broken[first:near]
            case 4:
                broken[first:first] = chance.randbytes(chance.randint(1, 16))
            case 5:
                broken[first:near] = other[start : start + chance.randint(1, 64)]
            case 6 if chance.random() < 0.3:
                del broken[last:]
    return bytes(broken)


EDITS = [
    edited_bytes, edited_bytes, edited_header, edited_header, edited_tensors, edited_tensors, edited_metadata, edited_lora,
    edited_lora, edited_lora, edited_lora,
]  # fmt: skip


def mutant(number):
    """The bytes of mutant ``number`` and, for PEFT, its configuration: the same ones every time."""
    chance = random.Random(number)
    content, config = chance.choice(SEEDS)
    if config is not None and chance.random() < 0.4:
        config = edited_adapter(chance, config)
        if chance.random() < 0.7:
            return content, config
    return chance.choice(EDITS)(chance, content), config


def require_sound(content: bytes, pairs: Pairs, seen: Inspection) -> None:
    """What is accepted is finite and of the shapes that the file's header declares, no tensor more or less."""
    declared = {
        k: e["shape"] for k, e in json.loads(unpack(content)[0]).items() if k != "__metadata__" and ".alpha" not in k
    }
    parts = [part for pair in pairs.values() for part in pair]
    fused = ("_qkv", ".qkv", "linear1")
    wide = any(fault.code in ("wide-rank", "converted") for fault in seen.faults)  # such layers have other shapes
    if not wide and not any(word in key for key in declared for word in fused):  # such a layer is read as several
        matrices = [
            [first, math.prod(rest)] if len(rest) == 3 else [first, *rest] for first, *rest in declared.values()
        ]
        assert sorted(matrices) == sorted(list(part.shape) for part in parts)
    assert load(content).keys() >= declared.keys()  # the library takes what we take
    assert all(part.dtype == torch.float32 and torch.isfinite(part).all() for part in parts)
    assert all(torch.isfinite(B @ A).all() for A, B in pairs.values())
    layout = Layout.from_factors(pairs)
    assert [m.name for m in layout.modules] == seen.modules
    assert seen.ok
    json.dumps(seen.to_dict(), allow_nan=False, ensure_ascii=False).encode()


def peak_mb():
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.slow
def test_changed_files_are_refused_in_our_words_or_are_sound():
    for content, config in SEEDS:
        require_sound(content, *read_lora_bytes(content, "seed", adapter_config=config)[::2])
    accepted, codes, before = 0, set(), peak_mb()
    for number in range(NUM_MUTANTS):
        content, config = mutant(number)
        start, refusal, pairs, seen = time.process_time(), None, {}, None
        try:
            pairs, _, seen = read_lora_bytes(content, f"mutant {number}", adapter_config=config)
        except LoRAFileError as error:
            refusal, code = str(error), error.code
        except BaseException as error:  # a Rust panic is no Exception
            pytest.fail(f"mutant {number}: {error!r}")
        seconds = time.process_time() - start
        assert seconds < 1, f"mutant {number} took {seconds:.1f} s"
        if refusal is None:
            accepted += 1
            require_sound(content, pairs, seen)
        else:
            codes.add(code)
            assert refusal.startswith(f"mutant {number}: "), refusal
            assert refusal.isprintable(), f"mutant {number}: {refusal!r}"
            assert all(words in refusal for words in (": expected ", ", got ", ". Fix: ")), refusal
    assert peak_mb() - before < 50
    # The mutator reaches every part of the gate, and not only its first door.
    print(f"{NUM_MUTANTS} mutants, {accepted} accepted, {len(codes)} kinds of refusal: {sorted(codes)}")
    assert accepted > NUM_MUTANTS / 50
    assert len(codes) >= 25
