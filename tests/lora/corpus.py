"""The table of bad LoRA files, and of odd ones that are good: what each is, and what the gate must say of it.

A row's number is that of a list of 92 known ways in which a LoRA file goes wrong; 0 marks what our own fuzzer and readings added.
"""

import os
import pickle
import pkgutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from .making import (
    ALPHA,
    ALPHA_K,
    DOWN,
    DOWN_K,
    GOOD,
    KEYS,
    KOHYA_K,
    KOHYA_Q,
    NEW_A,
    SAME_K,
    SGM_K,
    UP,
    UP_K,
    WHOLE,
    K,
    Q,
    a_zip,
    adapter,
    at,
    both,
    but,
    entry,
    evil,
    kohya,
    kohya_but,
    linked,
    loha,
    new_style,
    node,
    numbers,
    one,
    pack,
    pair_of,
    peft,
    peft_pipe,
    said,
    spaced,
    sparse,
    spoiled,
    subfolder,
    twice,
    two,
    unpack,
    wide,
    with_key,
    write,
)


@dataclass(frozen=True)
class Row:
    """A file, as bytes or as a function that makes it in a folder, and what the gate must say of it."""

    number: int
    slug: str
    code: str
    key: str
    says: list[str]
    make: bytes | Callable[[Path], Path | bytes]

    def write(self, folder):
        made = self.make(folder) if callable(self.make) else self.make
        return made if isinstance(made, Path) else write(folder, made)


@dataclass(frozen=True)
class Good:
    """A file that is accepted, with the notes it gets, and its updates as multiples of those of `kohya`."""

    number: int
    slug: str
    notes: list[str]
    updates: dict[str, float]
    make: bytes | Callable[[Path], Path | bytes]

    write = Row.write


CONFIG, METADATA = "adapter_config.json", "lora_adapter_metadata"
TEXT_KEY = "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
SDXL_K = KOHYA_K.replace("0", "1", 1)
PROJ = "lora_unet_down_blocks_0_attentions_0_proj_in"
SD3 = "transformer.transformer_blocks.0.attn.to_q"

# fmt: off
CONTAINER = [
    Row(1, "empty", "too-short", "file", ["at least 8 bytes", "0 bytes"], b""),
    Row(2, "7-bytes", "too-short", "file", ["at least 8 bytes", "7 bytes"], b"1234567"),
    Row(3, "header-beyond-file", "header-size", "header", ["at most 2 bytes", "500"], pack(b"{}", length=500)),
    Row(4, "length-2^64-1", "header-size", "header", [str(2**64 - 1)], b"\xff" * 16),
    Row(5, "length-0", "bad-header", "header", ["JSON"], pack(b"")),
    Row(6, "lfs", "other-kind", "file", ["LFS", "git lfs pull"], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    Row(7, "html", "other-kind", "file", ["HTML"], b"<!DOCTYPE html><html><body>404</body></html>"),
    Row(7, "html-after-a-newline", "other-kind", "file", ["HTML"], b"\n<html><body>404</body></html>"),
    Row(8, "zip", "other-kind", "file", ["zip", "never opened"], a_zip()),
    *(Row(9, f"pickle-{p}", "other-kind", "file", ["pickle", "never opened"], pickle.dumps({"a": [1.0] * 100}, p))
      for p in range(6)),
    *(Row(9, f"pickled-list-{p}", "other-kind", "file", ["pickle"], pickle.dumps([1.0] * 100, p)) for p in range(6)),
    Row(10, "cut-by-1", "truncated", KEYS[1], ["32 bytes", "31", "cut short"], GOOD[:-1]),
    Row(11, "trailing", "trailing-bytes", "file", ["32 bytes", "3 bytes more"], GOOD + b"PK\x03"),
    Row(11, "polyglot", "trailing-bytes", "file", ["32 bytes", "bytes more"], GOOD + a_zip()),
    Row(12, "overlap", "overlap", KEYS[1], ["from byte 16", f"8, inside {KEYS[0]}"], two(entry(0, 16), entry(8, 24))),
    Row(13, "hole", "hole", KEYS[1], ["from byte 16", "24"], two(entry(0, 16), entry(24, 40), b"\0" * 40)),
    Row(13, "hole-first", "hole", KEYS[0], ["from byte 0", "8"], pack({KEYS[0]: entry(8, 24)}, b"\0" * 24)),
    Row(14, "begin-after-end", "bad-offsets", KEYS[0], ["16 > 0"], two(entry(16, 0), entry(16, 32))),
    Row(15, "negative-offset", "bad-offsets", f"{KEYS[0]} data_offsets", ["-16"], two(entry(-16, 0), entry(0, 16))),
    Row(15, "negative-shape", "bad-shape", f"{KEYS[0]} shape", ["-2"], two(entry(0, 16, (-2, -2)), entry(16, 32))),
    Row(16, "float-shape", "bad-shape", f"{KEYS[0]} shape", ["2.0"], two(entry(0, 16, (2.0, 2)), entry(16, 32))),
    Row(16, "boolean-shape", "bad-shape", f"{KEYS[0]} shape", ["True"], two(entry(0, 16, (True, 4)), entry(16, 32))),
    Row(17, "shape-overflow", "size", KEYS[0], [f"{2**82} bytes"], two(entry(0, 16, (2**40, 2**40)), entry(16, 32))),
    Row(17, "nine-dimensions", "bad-shape", f"{KEYS[0]} shape", ["up to 8"], one(entry(0, 4, (1,) * 9))),
    Row(18, "shape-against-offsets", "size", KEYS[0], ["24 bytes", "16"], two(entry(0, 16, (2, 3)), entry(16, 32))),
    Row(19, "dtype-F128", "dtype", KEYS[0], ["F16, BF16 or F32", "F128"], two(entry(0, 16, dtype="F128"), entry(16, 32))),
    Row(19, "dtype-not-text", "dtype", KEYS[0], ["['F32']"], two(entry(0, 16, dtype=["F32"]), entry(16, 32))),
    Row(20, "key-twice", "duplicate-key", KEYS[0], ["the key twice"], twice(entry(0, 16), entry(0, 16))),
    Row(21, "key-twice-elsewhere", "duplicate-key", KEYS[0], ["the key twice"], twice(entry(0, 16), entry(16, 32))),
    Row(22, "metadata-key-twice", "duplicate-key", "a", ["twice"], pack(b'{"__metadata__": {"a": "1", "a": "2"}}')),
    Row(23, "metadata-number", "bad-metadata", "__metadata__.a", ["text", "int"], pack({"__metadata__": {"a": 1}, **WHOLE})),
    Row(23, "metadata-nested", "bad-metadata", "__metadata__.a", ["text", "dict"], pack({"__metadata__": {"a": {}}, **WHOLE})),
    Row(23, "metadata-list", "bad-metadata", "__metadata__", ["object", "list"], pack({"__metadata__": ["a"], **WHOLE})),
    Row(24, "metadata-70-MB", "header-size", "header", ["at most 64000000", "70000", "is this a LoRA?"],
        lambda _: pack({"__metadata__": {"a": "x" * 70_000_000}, **WHOLE})),
    Row(24, "metadata-of-5-MB-that-is-no-text", "header-size", "header", ["at most 4000000 bytes beside its metadata"],
        lambda _: pack({"__metadata__": {"a": ["x" * 5_000_000]}, **WHOLE})),
    Row(24, "metadata-of-20,000-texts", "too-many-keys", "__metadata__", ["at most 16384 texts"],
        lambda _: pack({"__metadata__": {f"a{i}": "" for i in range(20_000)}, **WHOLE})),
    Row(26, "extra-field", "bad-entry", KEYS[0], ["compression"], two(entry(0, 16, compression="zip"), entry(16, 32))),
    Row(26, "missing-field", "bad-entry", KEYS[0], ["dtype, shape"], pack({KEYS[0]: {"dtype": "F32", "shape": [2]}})),
    Row(26, "entry-a-list", "bad-entry", KEYS[0], ["list"], pack({KEYS[0]: [1, 2]})),
    Row(27, "not-utf8", "not-utf8", "header", ["UTF-8", "byte at 10"], pack(b'{"\xff": 1}')),
    Row(28, "nested-deep", "bad-header", "header", ["JSON"], pack(b'{"a":' + b"[" * 200_000)),
    Row(28, "nan-in-json", "bad-header", "header", ["JSON", "NaN"], pack(b'{"a": NaN}')),
    Row(28, "endless-number", "bad-header", "header", ["JSON"], pack(b'{"a": ' + b"9" * 5_000 + b"}")),
    Row(28, "a-list", "bad-header", "header", ["a JSON object", "list"], pack(b"[1, 2]")),
    Row(29, "20,000-keys", "too-many-keys", "header", ["at most 16384", "20000"],
        pack({f"k{i}": entry(0, 0, (0,)) for i in range(20_000)})),
    Row(29, "100,000-keys", "header-size", "header", ["at most 4000000 bytes"],
        lambda _: pack({f"k{i}": entry(0, 0, (0,)) for i in range(100_000)})),
    Row(30, "path-in-key", "illegal-key", "../../x", ["letters, digits"], one(entry(0, 16), "../../x")),
    Row(30, "escape-in-key", "illegal-key", "\\x1b[31m", ["letters, digits"], one(entry(0, 16), "\x1b[31m")),
    Row(30, "newline-in-key", "illegal-key", "a\\nb", ["letters, digits"], one(entry(0, 16), "a\nb")),
    Row(30, "nul-in-key", "illegal-key", "a\\x00b", ["letters, digits"], one(entry(0, 16), "a\0b")),
    Row(30, "half-a-surrogate-in-key", "illegal-key", "\\ud800", ["letters, digits"], one(entry(0, 16), "\ud800")),
    Row(30, "endless-key", "illegal-key", "aaa", ["at most 300", "5000 characters"], one(entry(0, 16), "a" * 5_000)),
    Row(31, "no-tensors", "no-tensors", "header", ["tensors", "none"], pack(b"{}")),
    Row(31, "metadata-only", "no-tensors", "header", ["tensors", "none"], pack({"__metadata__": {"a": "b"}})),
    Row(0, "metadata-half-a-surrogate", "bad-metadata", "__metadata__.a", ["Unicode", "half a surrogate"],
        pack({"__metadata__": {"a": "\ud800"}, **WHOLE}, b"\0" * 16)),
    Row(32, "folder", "not-a-file", "file", ["a LoRA file or a PEFT folder", "another folder"], subfolder()),
    Row(32, "pipe", "not-a-file", "file", ["a regular file", "a pipe"], node(stat.S_IFIFO)),
    Row(32, "socket", "not-a-file", "file", ["a regular file", "socket"], node(stat.S_IFSOCK)),
    Row(32, "device", "not-a-file", "file", ["a regular file", "device"], lambda _: Path("/dev/zero")),
    Row(33, "symlink-to-itself", "unreadable", "file", ["a readable file", "symbolic links"], linked("file.safetensors")),
    Row(33, "symlink-to-nothing", "not-found", "file", ["a LoRA file", "nothing there"], linked("gone.safetensors")),
    Row(0, "not-there", "not-found", "file", ["a LoRA file", "nothing there"], lambda folder: folder / "none.safetensors"),
    Row(0, "name-too-long", "unreadable", "file", ["a readable file", "too long"], lambda folder: folder / ("x" * 300)),
    Row(0, "line-end-in-file-name", "too-short", "file", ["8 bytes"], at("a\nb\x1b[31m.safetensors", b"")),
    Row(0, "bytes-in-file-name", "too-short", "file", ["8 bytes"], lambda f: write(f, b"", os.fsdecode(b"\xff.safetensors"))),
    Row(36, "sparse-200-GB", "too-large", "file", ["at most 4096 MB", "204800 MB"], sparse),
    Row(38, "gguf", "other-kind", "file", ["GGUF"], b"GGUF\x03\0\0\0" + b"\1" * 32),
    Row(38, "sharded-index", "other-kind", "file", ["index"], b'{"metadata": {}, "weight_map": {}}'),
    Row(38, "onnx", "other-kind", "file", ["ONNX"], b"\x08\x07\x12\x07pytorch\x1a\x052.0.0"),
    *(Row(85, f"zip-named-{s}", "other-kind", "file", ["zip", "never opened"], at(f"x.{s}", a_zip()))
      for s in ("pt", "bin", "ckpt")),
    *(Row(86, f"os.system-{p}", "other-kind", "file", ["pickle", "never opened"], evil(os.system, protocol=p)) for p in range(6)),
    *(Row(87, f"resolve_name-{p}", "other-kind", "file", ["pickle", "never opened"], evil(pkgutil.resolve_name, protocol=p))
      for p in range(6)),
    Row(88, "zip-bomb", "other-kind", "file", ["zip", "never opened"], lambda _: a_zip(100_000_000)),
    Row(92, "folder-of-pickles", "other-kind", "adapter_model.bin", ["adapter_model.safetensors", "pickle"],
        subfolder("adapter_model.bin", CONFIG)),
    Row(92, "folder-of-diffusers-pickles", "not-a-file", "file", ["another folder"], subfolder("pytorch_lora_weights.bin")),
]

CONTENT = [
    Row(39, "A-missing", "missing-half", KOHYA_Q, ["lora_A", UP], but(down=None)),
    Row(39, "alpha-alone", "missing-half", KOHYA_Q, ["lora_A", ALPHA], but(down=None, up=None)),
    Row(40, "B-missing", "missing-half", KOHYA_Q, ["lora_B", DOWN], but(up=None)),
    Row(40, "new-style-half", "missing-half", Q, ["lora_B", NEW_A], save({NEW_A: numbers(2, 8)})),
    Row(42, "ranks-differ", "rank", DOWN, [UP, "ranks 2 and 3", "(2, 8) and (6, 3)"], but(up=numbers(6, 3))),
    Row(45, "rank-0", "zero-size", DOWN, ["size 0", "(0, 8)"], but(down=torch.zeros(0, 8), up=torch.zeros(6, 0))),
    Row(47, "zero-by-a-billion", "zero-size", UP, ["(0, 1000000000)"], but(up=torch.zeros(0, 10**9))),
    Row(51, "transposed", "rank", DOWN, ["(8, 2) and (2, 6)"], but(down=numbers(8, 2), up=numbers(2, 6))),
    Row(52, "convolution", "convolution", DOWN, ["2 dimensions", "(2, 8, 1, 1)"], but(down=numbers(2, 8, 1, 1))),
    Row(52, "kernel-beside-a-matrix", "dimensions", f"{PROJ}.lora_up", ["(6, 2) beside (2, 4, 1, 1)"],
        save({f"{PROJ}.lora_down.weight": numbers(2, 4, 1, 1), f"{PROJ}.lora_up.weight": numbers(6, 2)})),
    Row(52, "kernel-in-the-wrong-half", "dimensions", f"{PROJ}.lora_up", ["(out, rank, 1, 1)", "(6, 2, 3, 3)"],
        save({f"{PROJ}.lora_down.weight": numbers(2, 4, 1, 1), f"{PROJ}.lora_up.weight": numbers(6, 2, 3, 3)})),
    Row(53, "one-dimension", "dimensions", DOWN, ["2 dimensions", "(8,)"], but(down=numbers(8))),
    Row(53, "no-dimension", "dimensions", DOWN_K, ["2 dimensions", "()"], but(**{DOWN_K: torch.tensor(1.0)})),
    Row(53, "no-dimension-in-an-up", "dimensions", UP_K, ["()"], but(**{UP_K: torch.tensor(1.0)})),
    Row(53, "no-dimension-in-a-transformer", "dimensions", f"{SD3}.lora_A", ["()"],
        save({f"{SD3}.lora_A.weight": torch.tensor(1.0), f"{SD3}.lora_B.weight": numbers(4, 2)})),
    Row(53, "five-dimensions", "dimensions", DOWN, ["(1, 1, 1, 2, 8)"], but(down=numbers(1, 1, 1, 2, 8))),
    Row(54, "nan", "not-finite", DOWN, ["finite", "1 NaN or infinite", "(1, 3)"], but(down=spoiled(torch.nan))),
    Row(54, "nan-in-float16", "not-finite", DOWN, ["(1, 3)"], but(down=spoiled(torch.nan).half())),
    Row(55, "inf", "not-finite", DOWN, ["(1, 3)"], but(down=spoiled(torch.inf))),
    Row(55, "minus-inf-in-bfloat16", "not-finite", DOWN, ["(1, 3)"], but(down=spoiled(-torch.inf).bfloat16())),
    Row(61, "update-beyond-F32", "too-large", Q, ["fits F32"], but(down=numbers(2, 8) * 1e30, up=numbers(6, 2) * 1e30)),
    Row(61, "scaled-beyond-F32", "too-large", Q, ["fits F32"], but(up=numbers(6, 2) * 1e38, alpha=torch.tensor(1000.0))),
    Row(62, "alpha-1e30", "alpha", ALPHA, ["1e-06 to 100000", "1e+30"], but(alpha=torch.tensor(1e30))),
    Row(63, "alpha-nan", "alpha", ALPHA, ["nan"], but(alpha=torch.tensor(torch.nan))),
    Row(63, "alpha-negative", "alpha", ALPHA, ["-1"], but(alpha=torch.tensor(-1.0))),
    Row(63, "alpha-0", "alpha", ALPHA, ["alpha 0"], but(alpha=torch.tensor(0))),
    Row(64, "alpha-vector", "alpha", ALPHA, ["one number", "(3,)"], but(alpha=torch.ones(3))),
    Row(64, "alpha-nothing", "alpha", ALPHA, ["one number", "(0,)"], but(alpha=torch.ones(0))),
    Row(64, "alpha-bool", "alpha", ALPHA, ["one number", "bool"], but(alpha=torch.tensor(True))),
    Row(67, "two-scales", "two-scales", METADATA, ["scale 1 of", Q, "its alpha", "got 4", "ask where"],
        save(kohya(), {METADATA: '{"unet.r": 2, "unet.lora_alpha": 8}'})),
    Row(67, "two-scales-no-alpha", "two-scales", METADATA, ["kohya's names", "got 4"],
        save(kohya_but(**{ALPHA: None, ALPHA_K: None}), {METADATA: '{"unet.r": 2, "unet.lora_alpha": 8}'})),
    Row(67, "transformer-two-scales", "two-scales", METADATA, ["scale 1 of", "its alpha", "got 2"],
        save({f"{SD3}.lora_A.weight": numbers(2, 4), f"{SD3}.lora_B.weight": numbers(4, 2), f"{SD3}.alpha": torch.tensor(2.0)},
             {METADATA: '{"transformer.r": 2, "transformer.lora_alpha": 4}'})),
    Row(63, "transformer-alpha-0", "alpha", f"{SD3}.alpha", ["alpha 0"],
        save({f"{SD3}.lora_A.weight": numbers(2, 4), f"{SD3}.lora_B.weight": numbers(4, 2), f"{SD3}.alpha": torch.tensor(0.0)})),
    Row(69, "dora", "kind", "dora_scale", ["DoRA"], with_key(f"{KOHYA_Q}.dora_scale")),
    Row(69, "loha", "kind", "hada_w1_a", ["LoHa of hada_w1_a alone"], with_key(f"{KOHYA_Q}.hada_w1_a")),
    Row(69, "loha-beside-a-lora", "duplicate-module", KOHYA_Q, ["a LoHa of it too"], lambda _: save(kohya() | loha(KOHYA_Q))),
    Row(69, "loha-part-twice", "duplicate-module", "hada_w1_a.weight", ["each part once", "hada_w1_a too"],
        lambda _: save(loha(KOHYA_Q) | {f"{KOHYA_Q}.hada_w1_a.weight": numbers(6, 2)})),
    Row(69, "loha-of-two-sizes", "dimensions", KOHYA_Q, ["fit each other", "hada_w2_b (3, 8)"],
        lambda _: save(loha(KOHYA_Q) | {f"{KOHYA_Q}.hada_w2_b": numbers(3, 8)})),
    Row(69, "loha-too-large", "too-large", KOHYA_Q, ["134217728 numbers", "20000 -> 20000"],
        lambda _: save(loha(KOHYA_Q, 20_000, 20_000))),
    Row(69, "loha-nan", "not-finite", "hada_w1_a", ["finite"],
        lambda _: save(loha(KOHYA_Q) | {f"{KOHYA_Q}.hada_w1_a": spoiled(torch.nan)})),
    Row(69, "loha-beyond-F32", "too-large", "hada_w1_a", ["fits F32"],
        lambda _: save({k: v * 1e20 for k, v in loha(KOHYA_Q).items()})),
    Row(69, "loha-dora", "kind", "dora_scale", ["DoRA"],
        lambda _: save(loha(KOHYA_Q) | {f"{KOHYA_Q}.dora_scale": numbers(6, 1)})),
    Row(69, "loha-alpha", "alpha", ALPHA, ["nan"], lambda _: save(loha(KOHYA_Q) | {ALPHA: torch.tensor(torch.nan)})),
    Row(69, "lokr-0-d", "dimensions", "lokr_w1", ["2 or 4 dimensions"],
        lambda _: save({f"{KOHYA_Q}.lokr_w1": torch.tensor(1.0), f"{KOHYA_Q}.lokr_w2": numbers(3, 4)})),
    Row(69, "lokr", "kind", "lokr_w1", ["LoKr of lokr_w1 alone"], with_key(f"{KOHYA_Q}.lokr_w1")),
    *(Row(69, f"{kind}-alone", "kind", part, [what, "LoRA, LoHa and LoKr are read"], save({f"{KOHYA_Q}.{part}": numbers(4, 4)}))
      for part, kind, what in (
          ("oft_diag", "oft", "OFT"), ("oft_R.default.weight", "oft-of-peft", "OFT"), ("boft_R", "boft", "OFT"),
          ("ia3_l", "ia3", "IA3"), ("on_input", "ia3-of-lycoris", "IA3"), ("a1.weight", "glora", "GLoRA"),
          ("vera_lambda_b", "vera", "VeRA"), ("lora_E", "adalora", "AdaLoRA"), ("fourierft_spectrum", "fourierft", "FourierFT"),
          ("w_norm", "norm", "a change of a norm"), ("diff", "diff", "base weight"),
          ("lora_magnitude_vector", "dora", "DoRA"))),
    Row(69, "norm-beside", "kind", "mid_block_norm.b_norm", ["a change of a norm"], with_key("lora_unet_mid_block_norm.b_norm")),
    Row(69, "tucker", "kind", "lora_mid", ["Tucker"], with_key(f"{KOHYA_Q}.lora_mid.weight")),
    Row(69, "bias", "kind", "lora_B.bias", ["a bias"], save(new_style() | {f"unet.{Q}.lora_B.bias": numbers(6)})),
    Row(69, "metadata-dora", "kind", f"{METADATA} use_dora", ["a plain LoRA", "True", "through PEFT"], adapter(use_dora=True)),
    Row(69, "peft-loha", "kind", f"{CONFIG} peft_type", ["LORA", "LOHA"], peft({"peft_type": "LOHA"})),
    *(Row(69, f"peft-{field}", "kind", f"{CONFIG} {field}", ["a plain LoRA", f"{value}", "through PEFT"], peft({field: value}))
      for field, value in (("alora_invocation_tokens", [1]), ("target_parameters", ["x"]), ("trainable_token_indices", [7]))),
    Row(69, "peft-bias", "kind", f"{CONFIG} bias", ["none", "all"], peft({"bias": "all"})),
    *(Row(0, f"peft-{start}", "kind", f"{CONFIG} init_lora_weights", ["as it was", repr(start), "first factors"],
          peft({"init_lora_weights": start})) for start in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")),
    Row(0, "metadata-pissa", "kind", f"{METADATA} init_lora_weights", ["'pissa'"], adapter(init_lora_weights="pissa")),
    Row(70, "set-weight", "kind", "set_weight", ["base weight"], with_key(f"{KOHYA_Q}.set_weight")),
    Row(70, "diff", "kind", ".diff", ["base weight"], with_key(f"{KOHYA_Q}.diff")),
    Row(70, "reshape-weight", "kind", "reshape_weight", ["base weight"], with_key(f"{KOHYA_Q}.reshape_weight", (2,))),
    Row(71, "extra-lora-key", "unknown-key", "lora_strange", ["lora_A, lora_B or alpha"],
        with_key(f"{KOHYA_Q}.lora_strange.weight")),
    Row(72, "extra-tensor", "unknown-key", "embedding", ["another tensor"], with_key("embedding")),
    Row(72, "no-lora-at-all", "no-lora", "conv_in.weight", ["lora_A"], save({"conv_in.weight": numbers(4, 4)})),
    *(Row(72, f"no-lora-{end}", "no-lora", end, ["lora_A.weight", "none in the file", "save it again"],
          save({f"{KOHYA_Q}.{end}": numbers(2, 8), f"{KOHYA_Q}.other": numbers(6, 2)}))
      for end in ("lora_down", "lora_A.weight.default", "lora_Down.weight")),
    *(Row(73, f"text-encoder-{prefix}", "text-encoder", prefix, ["one of a text encoder and 1 more", "--unet-only"],
          save(kohya() | {f"{prefix}.text_model.x.{half}": numbers(2, 2) for half in ("lora_down.weight", "lora_up.weight")}))
      for prefix in ("clip_l", "clip_g", "t5xxl", "cond_stage_model.transformer", "conditioner.embedders.0")),
    Row(73, "text-encoder", "text-encoder", TEXT_KEY, ["UNet only", "--unet-only"], with_key(TEXT_KEY)),
    Row(73, "text-encoder-2", "text-encoder", "text_encoder_2.", ["UNet only"],
        save(new_style() | {"text_encoder_2.x.lora_A.weight": numbers(2, 4)})),
    Row(74, "one-module-in-two-styles", "duplicate-module", NEW_A, ["each module once", DOWN], save(kohya() | new_style())),
    Row(74, "two-adapters", "duplicate-module", ".b.weight", ["each module once", ".a.weight too", "a file of its own"],
        save({k.replace(".weight", f".{name}.weight"): v for name in "ab" for k, v in new_style().items()})),
    Row(75, "one-module-two-names", "duplicate-module", Q, ["each module once"],
        save({**new_style(), f"{Q}.lora_A.weight": numbers(2, 8), f"{Q}.lora_B.weight": numbers(6, 2)})),
    Row(75, "kohya-module-two-names", "duplicate-module", SGM_K, ["each module once", SAME_K], both(SGM_K, SAME_K)),
    Row(75, "one-module-in-other-letters", "duplicate-module", KOHYA_Q, ["each module once", f"{KOHYA_Q.upper()} too"],
        save(kohya() | {k.replace(KOHYA_Q, KOHYA_Q.upper()): v for k, v in kohya().items() if KOHYA_Q in k})),
    Row(76, "alpha-fp8", "dtype", ALPHA, ["F16, BF16 or F32", "float8"], but(alpha=torch.tensor(2.0).to(torch.float8_e5m2))),
    Row(76, "int8", "dtype", DOWN, ["F16, BF16 or F32", "int8"], but(down=torch.ones(2, 8, dtype=torch.int8))),
    Row(76, "bool", "dtype", DOWN, ["bool"], but(down=torch.ones(2, 8, dtype=torch.bool))),
    Row(76, "fp8", "dtype", DOWN, ["float8"], but(down=torch.ones(2, 8).to(torch.float8_e4m3fn))),
    Row(76, "F64-beyond-F32", "too-large", DOWN, ["1e+200"], but(down=torch.full((2, 8), 1e200, dtype=torch.float64))),
    Row(77, "labelled-int32", "dtype", DOWN, ["int32"], but(down=numbers(2, 8).view(torch.int32))),
    Row(78, "metadata-not-json", "bad-metadata", METADATA, ["JSON"], said("{")),
    Row(78, "metadata-a-list", "bad-metadata", METADATA, ["an object", "list"], said("[]")),
    Row(78, "metadata-nested-deep", "bad-metadata", METADATA, ["JSON"], said("[" * 100_000)),
    Row(78, "metadata-alpha-text", "bad-metadata", "lora_alpha", ["a number", "'8'"], adapter(lora_alpha="8")),
    Row(78, "metadata-pattern", "bad-metadata", "alpha_pattern", ["regular expressions", "(?=a)"],
        adapter(alpha_pattern={"(?=a)": 1})),
    Row(78, "metadata-of-no-model", "bad-metadata", METADATA, ["unet.lora_alpha", "no program reads"], said('{"lora_alpha": 8}')),
    Row(78, "metadata-key-twice", "bad-metadata", METADATA, ["JSON", "a key that stands twice"],
        said('{"unet.r": 2, "unet.lora_alpha": 2, "unet.lora_alpha": 64}')),
    Row(78, "peft-config-key-twice", "bad-metadata", CONFIG, ["JSON", "a key that stands twice"],
        peft('{"r": 2, "lora_alpha": 2, "lora_alpha": 64}')),
    *(Row(78, f"metadata-rslora-{value!r}", "bad-metadata", f"{METADATA} use_rslora", ["true or false", repr(value)],
          adapter(use_rslora=value)) for value in ("false", 1, [])),
    *(Row(78, f"metadata-pattern-{value!r}", "bad-metadata", f"{METADATA} rank_pattern", ["an object", type(value).__name__],
          adapter(rank_pattern=value)) for value in ([], 0, "")),
    Row(78, "metadata-without-alpha", "bad-metadata", METADATA, ["r and lora_alpha", "no lora_alpha"], said('{"unet.r": 2}')),
    Row(78, "peft-modules-to-save", "kind", f"{CONFIG} modules_to_save", ["a plain LoRA", "['mid']", "through PEFT"],
        peft({"modules_to_save": ["mid"]})),
    Row(78, "metadata-pattern-list", "bad-metadata", "rank_pattern", ["an object", "list"], adapter(rank_pattern=[2])),
    Row(79, "metadata-rank", "rank", f"{METADATA} r", ["2, as its tensors are", "4"], adapter(r=4)),
    Row(79, "metadata-rank-huge", "rank", f"{METADATA} r", ["2, as its tensors are", "inf"], adapter(r=10**400)),
    Row(62, "metadata-alpha-1e30", "alpha", "lora_alpha", ["1e+30"], adapter(lora_alpha=1e30)),
    Row(62, "metadata-alpha-huge", "alpha", "lora_alpha", ["inf"], adapter(lora_alpha=10**400)),
    Row(79, "peft-rank", "rank", f"{CONFIG} r", ["2, as its tensors are", "4"], peft({"r": 4})),
    Row(78, "peft-no-config", "no-config", CONFIG, ["beside the weights"], peft(None)),
    Row(78, "peft-config-not-json", "bad-metadata", CONFIG, ["JSON"], peft("{")),
    Row(78, "peft-config-a-list", "bad-metadata", CONFIG, ["an object"], peft("[]")),
    Row(78, "peft-config-no-alpha", "bad-metadata", CONFIG, ["lora_alpha"], peft('{"r": 2}')),
    Row(80, "another-base-stated", "base", "lorasynth.base", ["sdxl, the base model by its shapes", "sd15", "--force-base"],
        save(pair_of(SDXL_K, 2048, 640), {"lorasynth.base": "sd15"})),
    Row(80, "another-base-by-kohya", "base", "ss_base_model_version", ["sd15, the", "sdxl"],
        save(pair_of(KOHYA_K, 768, 320), {"ss_base_model_version": "sdxl_base_v1-0"})),
    Row(80, "another-base-by-modelspec", "base", "modelspec.architecture", ["sd15, the", "flux"],
        save(pair_of(KOHYA_K, 768, 320), {"modelspec.architecture": "flux-1-dev/lora"})),
    Row(80, "a-base-without-such-a-module", "base", "attn2_to_kk", ["modules of sd15", "which sd15 has not"],
        save(pair_of(KOHYA_K, 768, 320) | pair_of(f"{KOHYA_K}k", 768, 320), {"ss_base_model_version": "sd_v1"})),
    Row(80, "a-base-with-other-shapes", "base", KOHYA_K, ["modules of sd15", "768 -> 640, which sd15 has in another shape"],
        save(pair_of(KOHYA_K, 768, 640), {"lorasynth.base": "sd15"})),
    Row(32, "peft-config-a-pipe", "not-a-file", CONFIG, ["a regular file", "a pipe"], peft_pipe),
    Row(81, "base-of-two-lines", "bad-metadata", "lorasynth.base", ["a name", "a\\nb"],
        save(kohya(), {"lorasynth.base": "a\nb"})),
]

ONE, HTML = {Q: 1.0, K: 1.0}, "<script>alert(1)</script>\x1b[2J\x9b31m\u202e"
ACCEPTED = [
    Good(25, "spaces-before-and-after", [], ONE, spaced(save(kohya()), b"       ", b"   ")),
    Good(24, "metadata-30-MB", [], ONE, lambda _: save(kohya(), {"ss_tag_frequency": "sks ü, " * 3_750_000})),
    Good(25, "header-length-like-a-pickle", [], ONE, spaced(save(kohya()), after=b" " * (0x480 - len(unpack(save(kohya()))[0])))),
    *(Good(37, f"name-{n[:8]}", [], ONE, at(n, save(kohya())))
      for n in ("A.SAFETENSORS", "with spaces.safetensors", "ü ✓.safetensors", "x" * 255, "a\nb", "\x9b31m", "\udcff")),
    Good(46, "rank-above-both-sides", ["wide-rank"], ONE, wide(7)),
    Good(46, "rank-20,000", ["wide-rank"], ONE, lambda _: wide(20_000)),
    Good(62, "alpha-1-at-rank-2,000", ["wide-rank"], {Q: 1 / 2_000, K: 1}, lambda _: wide(2_000, alpha=1)),
    Good(56, "all-zero", ["all-zero"], {Q: 0, K: 0}, but(up=torch.zeros(6, 2), **{UP_K: torch.zeros(6, 2)})),
    Good(57, "one-zero-pair", ["zero-pair"], {Q: 0, K: 1}, but(down=torch.zeros(2, 8), up=torch.zeros(6, 2))),
    Good(58, "A-zero-B-large", ["zero-pair"], {Q: 0, K: 1}, but(down=torch.zeros(2, 8), up=numbers(6, 2) * 1e3)),
    Good(59, "vanishing", ["vanishing"], {Q: 1e-30, K: 1}, but(down=numbers(2, 8) * 1e-30)),
    Good(61, "overflowing", ["overflowing"], {Q: 1e30, K: 1}, but(down=numbers(2, 8) * 1e30)),
    Good(64, "alpha-int64", [], ONE, but(alpha=torch.tensor(2))),
    Good(64, "alpha-of-one-dimension", [], ONE, but(alpha=torch.tensor([2.0]))),
    Good(64, "alpha-bfloat16", [], ONE, but(alpha=torch.tensor(2.0).bfloat16())),
    Good(65, "alpha-absent", [], ONE, but(**{ALPHA: None, ALPHA_K: None})),
    Good(66, "alphas-differ", [], {Q: 8, K: 0.5}, but(alpha=torch.tensor(16.0), **{ALPHA_K: torch.tensor(1.0)})),
    Good(67, "header-says-another-alpha", ["stated"], ONE, save(kohya(), {"ss_network_alpha": "1.0"})),
    Good(68, "scale-in-metadata", [], {Q: 4}, adapter(r=2, lora_alpha=8)),
    Good(68, "scale-in-peft-config", [], {Q: 2}, peft({"lora_alpha": 4})),
    *(Good(0, f"peft-{start}", [], {Q: 1}, peft({"init_lora_weights": start}))
      for start in (True, False, "gaussian", "orthogonal", "eva", "mica")),
    Good(67, "two-scales-that-agree", [], ONE, save(kohya(), {METADATA: '{"unet.r": 2, "unet.lora_alpha": 2}'})),
    Good(68, "scale-in-an-expression", [], {Q: 4}, adapter(alpha_pattern={r".*\.attn\d\..*": 8, "to_q": 1})),
    Good(68, "scale-for-another-model", [], {Q: 1}, said('{"text_encoder.r": 2, "text_encoder.lora_alpha": 8}')),
    Good(68, "expression-without-end", [], {Q: 1}, adapter(alpha_pattern={"(a+)+b": 8})),
    Good(68, "scale-of-rslora", [], {Q: 2.0**0.5}, adapter(r=2, lora_alpha=2, use_rslora=True)),
    Good(68, "scale-in-patterns", [], {Q: 4}, adapter(r=3, rank_pattern={"to_q": 2}, alpha_pattern={f"^{Q}": 8, "to_q": 1})),
    Good(76, "F64", ["double"], ONE, save({k: v.double() for k, v in kohya().items()})),
    *(Good(79, f"header-says-{k}", [], ONE, save(kohya(), {"ss_network_dim": "4", "ss_network_args": f'{{"{k}": "4"}}'}))
      for k in ("conv_dim", "block_dims", "conv_alpha")),
    Good(79, "header-says-another-rank", ["stated"], ONE, save(kohya(), {"ss_network_dim": "4"})),
    Good(81, "script-in-metadata", [], ONE, save(kohya(), {"note": HTML, HTML: "note"})),
    Good(84, "other-scaling-same-update", [], ONE, but(down=numbers(2, 8) * 4, up=numbers(6, 2, seed=1) / 4)),
    Good(0, "another-layout-stated", ["layout"], ONE, save(kohya(), {"lorasynth.layout": "0123456789abcdef"})),
]
# fmt: on
